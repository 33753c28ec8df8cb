"""DailyTalk (Lee et al. 2023): everyday dialogues, read by one woman and one man.

    metadata.json                      dialogue -> utterance -> text, speaker, emotion
    data/{dialogue}/{utterance}_{speaker}_d{dialogue}.wav

It has no splits for emotion recognition, and the same two speakers throughout. The five folds are defined here, by
dialogue (its number modulo five); no fold is independent of the speakers.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...modeling.json_text import parse_json
from ..audio_paths import extra_files
from ..problems import Problem
from ..table import Turn
from ..text_files import read_text
from .corpus import Corpus, find, same, turns_of_json


_FOLDS = 5


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns, in the order of their ids; times are unknown."""
    path = find(root, "metadata.json")
    audio = find(path.parent, "data")
    turns, problems = [], []
    for number, dialogue in parse_json(read_text(path), str(path), dict).items():
        folder = audio / number if (audio / number).is_dir() else audio
        part, unreadable = turns_of_json(path, f"dialogue {number}", dialogue, partial(_turn, number, folder))
        problems += unreadable + extra_files(audio / number, [turn.audio for turn in part])
        turns += part
    return turns, problems


def _turn(number: str, folder: Path, index: str, utterance: dict) -> Turn:
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
