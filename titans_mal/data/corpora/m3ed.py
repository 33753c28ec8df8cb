"""M3ED (Zhao et al. 2022): dialogues of two speakers from 56 Chinese television series.

annotation.json                                    movie -> clip -> Dialog, SpeakerInfo
splitInfo/movie_list_{train,val,test}.txt
modality_speech/A_anjia_1_1.wav                    {Speaker}_{utterance}.wav
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..problems import Problem
from ..sound_files import extra_files, find_sounds
from ..table import Turn
from ..text_files import read_text
from .corpus import Corpus, find, same


_FRAMES_PER_SECOND = 25


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of the movies in the split lists; a speaker is a person of a movie."""
    annotation = json.loads(read_text(find(root, "annotation.json")))
    audio = find_sounds(root, "modality_speech", "", stem="?_*_*_*")
    turns, problems = [], []
    for split in ("train", "val", "test"):
        movies = read_text(find(root, f"movie_list_{split}.txt")).split()
        missing = sorted(set(movies) - set(annotation))
        if missing:
            raise ValueError(f"annotation.json has no movies {missing} of movie_list_{split}.txt.")
        for movie in movies:
            for clip, content in annotation[movie].items():
                turns += [
                    _turn(movie, clip, content, name, utterance, audio, split)
                    for name, utterance in content["Dialog"].items()
                ]
    problems += extra_files(audio, [turn.audio for turn in turns])
    return turns, problems


def _turn(movie: str, clip: str, content: dict, name: str, utterance: dict, audio: Path, split: str) -> Turn:
    letter = utterance["Speaker"].strip()  # only valid within this clip
    person = content.get("SpeakerInfo", {}).get(letter, {}).get("Name", "").strip()
    return Turn(
        clip,
        f"{movie}_{person}" if person else f"{clip}_{letter}",
        str(audio / f"{letter}_{name}.wav"),
        words=(utterance["EmoAnnotation"]["final_main_emo"].strip(),),
        start=_seconds(utterance["StartTime"]),
        end=_seconds(utterance["EndTime"]),
        transcript=utterance.get("Text"),
        group=split,
        order=(int(name.rsplit("_", 1)[1]),),
    )


def _seconds(time: str) -> float:
    """Seconds in `hours:minutes:seconds:frames`, from the beginning of the clip."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", time.strip())
    if found is None:
        raise ValueError(f"A time of M3ED must have the form hh:mm:ss:ff, got {time!r}.")
    hours, minutes, seconds, frames = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + frames / _FRAMES_PER_SECOND


M3ED = Corpus(
    name="m3ed",
    title="M3ED",
    read=read,
    label_sets={"7-class": same("Neutral", "Happy", "Surprise", "Sad", "Disgust", "Anger", "Fear")},
)
