"""MSP-Podcast (Lotfian and Busso 2019): segments of podcasts.

    Labels/labels_consensus.csv        labels_concensus.csv in old releases
    Audios/MSP-PODCAST_0001_0008.wav   podcast, segment
    Time_Labels/segments.json          in some releases

Segments are a selection: the speech between them is not included. A podcast can have segments in several splits, which
are then separate conversations.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from ...modeling.json_text import parse_json
from ..audio_paths import extra_files, find_audio
from ..problems import Problem
from ..table import Turn, on_scale
from ..text_files import parse_seconds, read_text
from .corpus import Corpus, find, gender_of, same, turns_of_csv


_NAME = re.compile(r"(MSP-PODCAST_\d+)_(\d+(?:_\d+)*)\.wav")
_SPLITS = {"Train": "train", "Development": "dev", "Validation": "dev"}
# On scales from 1 to 7.
_DIMENSIONS = {"EmoVal": "valence", "EmoAct": "arousal", "EmoDom": "dominance"}
_WORDS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprised",
    "F": "fearful",
    "D": "disgusted",
    "C": "contemptuous",
    "N": "neutral",
    "O": "other",
    "X": "undecided",
}


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All segments of the consensus file, in numerical order."""
    table = find(root, "labels_consensus.csv", "labels_concensus.csv")
    audio = find_audio(root, "Audios", "Audio", "", stem="msp-podcast_*")
    try:
        path = find(root, "segments.json")
        times = parse_json(read_text(path), str(path), dict)
    except FileNotFoundError:
        times = {}
    as_turn = partial(_turn, audio=audio, times=times)
    turns, problems = turns_of_csv(table, ("FileName", "EmoClass", "SpkrID", "Split_Set"), as_turn)
    return turns, problems + extra_files(audio, [turn.audio for turn in turns])


def _turn(row: dict[str, str], audio: Path, times: dict[str, dict]) -> Turn:
    name = row["FileName"]
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"The name of a segment must be like MSP-PODCAST_0001_0008.wav, got {name!r}.")
    split = _SPLITS.get(row["Split_Set"], row["Split_Set"].lower())
    time = times.get(name.removesuffix(".wav"))
    given = (time.get(key) if isinstance(time, dict) else None for key in ("Start_Time", "End_Time"))
    start, end = (None if seconds is None else parse_seconds(seconds) for seconds in given)
    # "Unknown" stands for many people, so each such segment gets its own speaker.
    speaker = row["SpkrID"]
    return Turn(
        f"{split}_{found[1]}",
        f"unknown_{name.removesuffix('.wav')}" if speaker.lower() in ("unknown", "") else speaker,
        str(audio / name),
        words=(_WORDS.get(row["EmoClass"], row["EmoClass"]),),
        start=start,
        end=end,
        group=split,
        order=tuple(map(int, found[2].split("_"))),
        more={"gender": gender_of(row.get("Gender"))}
        | {name: on_scale(row.get(column), 1, 7) for column, name in _DIMENSIONS.items()},
    )


MSP_PODCAST = Corpus(
    name="msp-podcast",
    title="MSP-Podcast",
    read=read,
    label_sets={
        "8-class": same("neutral", "happy", "sad", "angry", "surprised", "fearful", "disgusted", "contemptuous"),
        "4-class": same("neutral", "happy", "sad", "angry"),
        "raw": same(*_WORDS.values()),
    },
)
