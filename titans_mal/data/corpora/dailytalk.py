"""DailyTalk (Lee et al. 2023): everyday dialogues, read by one woman and one man.

    metadata.json                      dialogue -> utterance -> text, speaker, emotion
    data/{dialogue}/{utterance}_{speaker}_d{dialogue}.wav

It has no splits for emotion recognition, and the same two speakers throughout. The five folds are defined here, by
dialogue (its number modulo five); no fold is independent of the speakers.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..problems import Problem
from ..sound_files import extra_files
from ..table import Turn
from ..text_files import read_text
from .corpus import Corpus, find, same


_FOLDS = 5


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns, in the order of their ids; times are unknown."""
    path = find(root, "metadata.json")
    audio = find(path.parent, "data")
    turns, problems = [], []
    for number, dialogue in json.loads(read_text(path)).items():
        folder = audio / number if (audio / number).is_dir() else audio
        part = [_turn(number, index, utterance, folder) for index, utterance in dialogue.items()]
        problems += extra_files(audio / number, [turn.audio for turn in part])
        turns += part
    return turns, problems


def _turn(number: str, index: str, utterance: dict, folder: Path) -> Turn:
    speaker = str(utterance["speaker"])
    return Turn(
        f"d{number}",
        speaker,
        str(folder / f"{index}_{speaker}_d{number}.wav"),
        words=(utterance["emotion"].strip(),),
        transcript=utterance.get("text"),
        group=f"fold{int(number) % _FOLDS + 1}",
        order=(int(index),),
    )


DAILYTALK = Corpus(
    name="dailytalk",
    title="DailyTalk",
    read=read,
    label_sets={
        "7-class": {"no emotion": "neutral"} | same("happiness", "surprise", "sadness", "disgust", "anger", "fear")
    },
    fold_groups=tuple(f"fold{number}" for number in range(1, _FOLDS + 1)),
)
