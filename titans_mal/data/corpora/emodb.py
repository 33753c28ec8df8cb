"""EmoDB (Burkhardt et al. 2005): ten German sentences by ten actors, as `wav/03a01Fa.wav`.

It has no dialogues: each utterance is a conversation of one turn, where a memory should do no harm. The label is the
acted emotion. The five folds are defined here, with one man and one woman each.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..audio_paths import audio_files, find_audio
from ..problems import Problem
from ..table import FEMALE, MALE, Turn
from .corpus import Corpus, same


# Speaker, sentence, letter of the German word for the emotion, and a letter for the version, which some copies lack.
_NAME = re.compile(r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]?")
_WORDS = {
    "W": "angry",
    "L": "bored",
    "E": "disgusted",
    "A": "fearful",
    "F": "happy",
    "T": "sad",
    "N": "neutral",
}
_FOLDS = (("03", "08"), ("10", "09"), ("11", "13"), ("12", "14"), ("15", "16"))
_MEN = frozenset(man for man, _ in _FOLDS)
_GROUPS = {speaker: f"fold{number}" for number, pair in enumerate(_FOLDS, start=1) for speaker in pair}


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All files whose name gives one of the ten speakers and an emotion; others are extra."""
    turns: dict[str, Turn] = {}
    problems = []
    for path in sorted(audio_files(find_audio(root, "wav", "", stem="[01][0-9][ab][0-9][0-9][wleaftn]*"))):
        found = _NAME.fullmatch(path.stem)
        if found is None or found[1] not in _GROUPS:
            problems.append(
                Problem("extra", str(path), "its name is not SPEAKER SENTENCE EMOTION VERSION, as 03a01Fa")
            )
        elif path.stem in turns:
            problems.append(Problem("extra", str(path), f"a second copy of {turns[path.stem].audio}"))
        else:
            speaker, words = found[1], (_WORDS[found[2]],)
            more = {"gender": MALE if speaker in _MEN else FEMALE}
            turns[path.stem] = Turn(path.stem, speaker, str(path), words=words, group=_GROUPS[speaker], more=more)
    return list(turns.values()), problems


EMODB = Corpus(
    name="emodb",
    title="EmoDB",
    read=read,
    label_sets={
        "7-class": same("neutral", "happy", "sad", "angry", "fearful", "disgusted", "bored"),
        "4-class": same("neutral", "happy", "sad", "angry"),
    },
    fold_groups=tuple(f"fold{number}" for number in range(1, len(_FOLDS) + 1)),
    licence="free, with citation",
)
