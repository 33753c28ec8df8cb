"""M3ED (Zhao et al. 2022): dialogues of two speakers from 56 Chinese television series.

annotation.json                                    movie -> clip -> Dialog, SpeakerInfo
splitInfo/movie_list_{train,val,test}.txt
modality_speech/A_anjia_1_1.wav                    {Speaker}_{utterance}.wav
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from ...modeling.json_text import parse_json
from ..audio_paths import extra_files, find_audio
from ..problems import Problem
from ..table import Turn
from ..text_files import read_text
from .corpus import Corpus, find, gender_of, same, turns_of_json


_FRAMES_PER_SECOND = 25


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of the movies in the split lists; a speaker is a person of a movie."""
    path = find(root, "annotation.json")
    annotation = parse_json(read_text(path), str(path), dict)
    audio = find_audio(root, "modality_speech", "", stem="?_*_*_*")
    turns: list[Turn] = []
    problems: list[Problem] = []
    for split in ("train", "val", "test"):
        movies = read_text(find(root, f"movie_list_{split}.txt")).split()
        missing = sorted(set(movies) - set(annotation))
        if missing:
            raise ValueError(f"annotation.json has no movies {missing} of movie_list_{split}.txt.")
        for movie in movies:
            clips = annotation[movie]
            for clip, content in clips.items() if isinstance(clips, dict) else ((movie, None),):
                content = content if isinstance(content, dict) else {}
                as_turn = partial(_turn, movie, clip, content, audio, split)
                part, unreadable = turns_of_json(path, clip, content.get("Dialog"), as_turn, split)
                turns, problems = turns + part, problems + unreadable
    problems += extra_files(audio, [turn.audio for turn in turns])
    return turns, problems


def _turn(movie: str, clip: str, content: dict, audio: Path, split: str, name: str, utterance: dict) -> Turn:
    letter = utterance["Speaker"].strip()  # only valid within this clip
    about = content.get("SpeakerInfo", {}).get(letter, {})
    person = about.get("Name", "").strip()
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
        more={"gender": gender_of(about.get("Gender"))},
    )


def _seconds(time: str) -> float:
    """Seconds in `hours:minutes:seconds:frames`, from the beginning of the clip."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", time.strip())
    if found is None:
        raise ValueError(f"A time of M3ED must have the form hh:mm:ss:ff, got {time!r:.100}.")
    hours, minutes, seconds, frames = map(int, found.groups())
    return hours * 3600 + minutes * 60 + seconds + frames / _FRAMES_PER_SECOND


M3ED = Corpus(
    name="m3ed",
    title="M3ED",
    read=read,
    label_sets={"7-class": same("Neutral", "Happy", "Surprise", "Sad", "Disgust", "Anger", "Fear")},
)
