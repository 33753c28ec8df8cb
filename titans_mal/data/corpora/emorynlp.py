"""EmoryNLP (Zahiri and Choi 2018) with the clips by the authors of MELD: scenes of the series Friends.

emorynlp_{train,dev,test}_final.csv
emorynlp_{train,dev,test}_splits/sea{S}_ep{E}_sc{scene}_utt{U}.mp4
"""

from __future__ import annotations

import ast
from pathlib import Path

from ..problems import Problem
from ..table import Turn, clock_seconds
from .corpus import Corpus, read_clips, same


_COLUMNS = ("Utterance", "Speaker", "Emotion", "Scene_ID", "Utterance_ID", "Season", "Episode")


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of the three splits, in the order of their ids, since turns can share a subtitle's times."""
    splits = {
        name: (f"emorynlp_{name}_final.csv", (f"emorynlp_{name}_splits", f"emorynlp_{name}", name))
        for name in ("train", "dev", "test")
    }
    return read_clips(root, splits, _COLUMNS, _turn)


def _turn(row: dict[str, str], clips: Path, split: str) -> Turn:
    scene = f"sea{row['Season']}_ep{row['Episode']}_sc{row['Scene_ID']}"
    # A Python list, since several people may speak at once.
    speakers = ast.literal_eval(row["Speaker"])
    times = [clock_seconds(row[name]) if row.get(name) else None for name in ("Start_Time", "End_Time")]
    return Turn(
        scene,
        " and ".join(map(str, speakers)),
        str(clips / f"{scene}_utt{row['Utterance_ID']}.mp4"),
        words=(row["Emotion"],),
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
