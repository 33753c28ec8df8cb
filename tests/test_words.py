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
    "examples/real_voices/feature_report.py": {"listener"},
    "examples/real_voices/host_parts.py": {"sound"},
    "tests/examples/test_real_voices.py": {"listener"},
    "modeling/conversation_store.py": {"anew"},
    "modeling/turn_inputs.py": {"sound"},
    "titans_mal/live/pool.py": {"anew"},
    "titans_mal/server/queries.py": {"anew"},
    "titans_mal/publishing/model_card.py": {"anew"},
    "titans_mal/evaluation/listener.py": {"listener", "Listener", "Heard"},
    "titans_mal/evaluation/rivals.py": {"rivals"},
    "titans_mal/evaluation/report_versions.py": {"heard"},
    "examples/documentation/pages/guides/hosts.md": {"sound"},
    "tests/released.py": {"sound"},
    "tests/test_layout.py": {"listener", "rivals"},
    "tests/tiny_processors.py": {"sound"},
    "tests/titans_mal/evaluation/test_compare.py": {"heard"},
    "tests/titans_mal/test_deprecated_names.py": {"anew", "listener", "Listener", "Heard", "rivals"},
}
# The list of such words.
LEFT_OUT = {"tests/test_words.py"}
# Parts of identifiers count as words: `not_heard`.
_WORD = re.compile(rf"(?<![A-Za-z])({'|'.join(FORBIDDEN)})(?![A-Za-z])", re.IGNORECASE)
_QUOTED = re.compile("`[^`]*`")  # a changelog names what was renamed


def sources() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not run from a clone")
    names = {name for name in listed.stdout.decode().split() if name.endswith((".py", ".jinja", ".md"))}
    return sorted(names - LEFT_OUT)


def test_sources_use_plain_words():
    found = []
    for name in sources():
        text = (ROOT / name).read_text(encoding="utf-8")
        for number, line in enumerate((_QUOTED.sub("", text) if name == "CHANGELOG.md" else text).splitlines(), 1):
            words = {word for word in _WORD.findall(line) if word not in ALLOWED.get(name, ())}
            found += [f"{name}:{number}: {word!r}, write {FORBIDDEN[word.lower()]}" for word in sorted(words)]
    assert not found, "\n".join(found)


def test_the_list_of_allowed_words_is_not_longer_than_needed():
    for name, words in ALLOWED.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert all(re.search(rf"(?<![A-Za-z]){word}(?![A-Za-z])", text) for word in words), name
