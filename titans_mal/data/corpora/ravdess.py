"""RAVDESS (Livingstone and Russo 2018): two sentences of 24 actors, as `Actor_01/03-01-06-01-02-01-12.wav`.

It has no dialogues: each utterance is a conversation of one turn, where a memory should do no harm. The six folds are
defined here, with four actors each, two women and two men.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..audio_paths import DEPTH, audio_files, find_audio
from ..problems import Problem
from ..table import FEMALE, MALE, Turn
from .corpus import Corpus, same


# Modality, channel (01 speech, 02 song), emotion, intensity, statement, repetition, actor (men have odd numbers).
_NAME = re.compile(r"03-(\d\d)-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")
_WORDS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
_ACTORS_OF_A_FOLD = 4


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """Speech only; songs are extra, and so are second copies of a file, which some archives contain."""
    folders = [path for depth in range(DEPTH) for path in sorted(root.glob("*/" * depth + "Actor_*")) if path.is_dir()]
    folders = sorted(folders) or [find_audio(root, "", stem="03-*-*-*-*-*-*")]
    turns: dict[str, Turn] = {}
    problems = []
    for path in (path for folder in folders for path in sorted(audio_files(folder))):
        found = _NAME.fullmatch(path.stem)
        if found is None or not 1 <= int(found[2]) <= len(_WORDS) or not 1 <= int(found[3]) <= 24:
            problems.append(Problem("extra", str(path), "its name is not that of an audio-only file (seven numbers)"))
        elif found[1] != "01":
            problems.append(Problem("extra", str(path), "song, not speech"))
        elif path.stem in turns:
            problems.append(Problem("extra", str(path), f"a second copy of {turns[path.stem].audio}"))
        else:
            group = f"fold{(int(found[3]) - 1) // _ACTORS_OF_A_FOLD + 1}"
            words = (_WORDS[int(found[2]) - 1],)
            more = {"gender": MALE if int(found[3]) % 2 else FEMALE}
            turns[path.stem] = Turn(path.stem, f"Actor_{found[3]}", str(path), words=words, group=group, more=more)
    return list(turns.values()), problems


RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS",
    read=read,
    label_sets={"8-class": same(*_WORDS), "4-class": same("neutral", "happy", "sad", "angry")},
    fold_groups=tuple(f"fold{number}" for number in range(1, 24 // _ACTORS_OF_A_FOLD + 1)),
    licence="CC BY-NC-SA 4.0",
)
