"""The words of sources and documentation: plain English of the field, without words that this project once had."""

import re
import subprocess
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
# Word: what to write instead. Models do not hear; only people do.
FORBIDDEN = {
    "anew": "again, or from scratch",
    "hear": "process, run or score",
    "heard": "processed, run or scored",
    "hears": "processes",
    "listener": "model",
    "listeners": "models",
    "rival": "baseline",
    "rivals": "baselines",
    "sound": "audio",
    "sounds": "audio",
    "talker": "speaker",
    "talkers": "speakers",
    "told": "reported or given",
    "whom": "who, or another sentence",
}
# Words that name something else: keys of saved files, deprecated names, other projects' identifiers.
ALLOWED = {
    "modeling/conversation_store.py": {"anew"},
    "titans_mal/live/pool.py": {"anew"},
    "titans_mal/server/queries.py": {"anew"},
    "titans_mal/publishing/model_card.py": {"anew"},
    "titans_mal/evaluation/listener.py": {"listener", "Listener", "Heard"},
    "titans_mal/evaluation/rivals.py": {"rivals"},
}
_WORD = re.compile(rf"\b({'|'.join(FORBIDDEN)})\b", re.IGNORECASE)


def sources() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "modeling", "titans_mal", "hub_cards"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not run from a clone")
    return [name for name in listed.stdout.decode().split() if name.endswith((".py", ".jinja", ".md"))]


def test_sources_use_plain_words():
    found = []
    for name in sources():
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
            words = {word for word in _WORD.findall(line) if word not in ALLOWED.get(name, ())}
            found += [f"{name}:{number}: {word!r}, write {FORBIDDEN[word.lower()]}" for word in sorted(words)]
    assert not found, "\n".join(found)


def test_the_list_of_allowed_words_is_not_longer_than_needed():
    for name, words in ALLOWED.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all(re.search(rf"\b{word}\b", text) for word in words), name
