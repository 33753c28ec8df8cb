"""EmoryNLP (Zahiri and Choi 2018) with the clips of the MELD authors: scenes of the series Friends.

emorynlp_{train,dev,test}_final.csv
emorynlp_{train,dev,test}_splits/sea{S}_ep{E}_sc{scene}_utt{U}.mp4
"""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

from ..problems import Problem
from ..table import Turn
from .corpus import Corpus, extra_files, find, same, seconds_of, turns_of_csv


_COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode")


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of the three splits, in the order of their ids: neighbours share their subtitle's times."""
    turns, problems = [], []
    for split in ("train", "dev", "test"):
        clips = find(root, f"emorynlp_{split}_splits/*.mp4").parent
        as_turn = partial(_turn, clips=clips, split=split)
        part = turns_of_csv(find(root, f"emorynlp_{split}_final.csv"), _COLUMNS, as_turn)
        problems += extra_files(clips, "*.mp4", [turn.audio for turn in part], split)
        turns += part
    return turns, problems


def _turn(row: dict[str, str], clips: Path, split: str) -> Turn:
    scene = f"sea{row['Season']}_ep{row['Episode']}_sc{row['Scene_ID']}"
    # A Python list: several may talk at once.
    speakers = ast.literal_eval(row["Speaker"])
    times = [seconds_of(row[name]) if row.get(name) else None for name in ("Start_Time", "End_Time")]
    return Turn(
        scene,
        " and ".join(map(str, speakers)),
        str(clips / f"{scene}_utt{row['Utterance_ID']}.mp4"),
        words=(row["Emotion"].strip(),),
        start=times[0],
        end=times[1],
        transcript=row["Utterance"],
        group=split,
        order=(int(row["Utterance_ID"]),),
    )


EMORYNLP = Corpus(
    name="emorynlp",
    title="EmoryNLP",
    read=read,
    label_sets={"7-class": same("Neutral", "Joyful", "Peaceful", "Powerful", "Scared", "Mad", "Sad")},
)
