"""CREMA-D (Cao et al. 2014): single sentences of 91 actors, as `AudioWAV/1001_DFA_ANG_XX.wav`.

It has no dialogues: each utterance is a conversation of one turn, where a memory should do no harm. The label is the
acted emotion. The five folds are defined here, by actor (the number modulo five). `VideoDemographics.csv`,
if present, has the actors' gender.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..audio_paths import audio_files, find_audio
from ..problems import Problem
from ..table import Turn
from .corpus import Corpus, find, gender_of, read_csv, same


_NAME = re.compile(r"(\d{4})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}")
_WORDS = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_FOLDS = 5


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All files of `AudioWAV` whose name gives actor and emotion; others are extra."""
    turns, problems, genders = [], [], _read_genders(root)
    for path in sorted(audio_files(find_audio(root, "AudioWAV", "", stem="*_*_*_*"))):
        found = _NAME.fullmatch(path.stem)
        if found is None or found[2] not in _WORDS:
            problems.append(Problem("extra", str(path), "its name is not ACTOR_SENTENCE_EMOTION_LEVEL.wav"))
            continue
        group = f"fold{int(found[1]) % _FOLDS + 1}"
        more = {"gender": genders.get(found[1])}
        turns.append(Turn(path.stem, found[1], str(path), words=(_WORDS[found[2]],), group=group, more=more))
    return turns, problems


def _read_genders(root: Path) -> dict[str, str | None]:
    """The gender of each actor; empty if the copy has no table of actors."""
    try:
        path = find(root, "VideoDemographics.csv")
    except FileNotFoundError:
        return {}
    return {row["ActorID"].strip(): gender_of(row["Sex"]) for row in read_csv(path, ("ActorID", "Sex"))}


CREMA_D = Corpus(
    name="crema-d",
    title="CREMA-D",
    read=read,
    label_sets={"6-class": same("neutral", "happy", "sad", "angry", "fearful", "disgusted")},
    fold_groups=tuple(f"fold{number}" for number in range(1, _FOLDS + 1)),
    licence="ODbL 1.0",
)
