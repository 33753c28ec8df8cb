"""IEMOCAP (Busso et al. 2008): 151 dyadic dialogues of ten actors in five sessions.

Session1/dialog/EmoEvaluation/Ses01F_impro01.txt      times and labels
Session1/dialog/transcriptions/Ses01F_impro01.txt
Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..audio_paths import DEPTH, extra_files
from ..problems import Problem
from ..table import DIMENSIONS, Turn, on_scale
from ..text_files import read_text
from .corpus import Corpus, gender_of, same


# "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]"; the raters' lines below have another form.
_EVALUATION = re.compile(r"\[(\d+\.\d+) - (\d+\.\d+)\]\t(\w+)\t(\w+)\t")
# Ratings on scales from 1 to 5, after the label.
_RATINGS = re.compile(r"\[([\d.]+), ([\d.]+), ([\d.]+)\]")
# "C-E2:\tNeutral;\t()", a rater's categories for the turn above; those of F and M are the speakers' own.
_VOTE = re.compile(r"C-E\d+:\t([^\t]*)")
# "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me."; other lines are asides without audio files.
_TRANSCRIPT = re.compile(r"(\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")

_WORDS = {
    "neu": "neutral",
    "hap": "happy",
    "sad": "sad",
    "ang": "angry",
    "exc": "excited",
    "fru": "frustrated",
    "sur": "surprised",
    "fea": "fearful",
    "dis": "disgusted",
    "oth": "other",
    "xxx": "undecided",
}

# Spelling in the raters' lines.
_VOTES = {
    "Neutral": "neutral",
    "Happiness": "happy",
    "Sadness": "sad",
    "Anger": "angry",
    "Excited": "excited",
    "Frustration": "frustrated",
    "Surprise": "surprised",
    "Fear": "fearful",
    "Disgust": "disgusted",
    "Other": "other",
}


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of all available sessions; the group of a turn, for folds, is its session."""
    found = [path for depth in range(DEPTH) for path in sorted(root.glob("*/" * depth + "Session[1-5]"))]
    found += [root] if re.fullmatch("Session[1-5]", root.name) else []
    if not found:
        raise FileNotFoundError(f"No Session1 to Session5 was found in {root} or up to three folder levels below it.")
    turns, problems = [], []
    sessions: dict[str, Path] = {}
    for path in found:
        if sessions.setdefault(path.name, path) != path:
            problems.append(Problem("extra", str(path), f"a second copy of {sessions[path.name]}"))
    for name, session in sorted(sessions.items()):
        for path in sorted((session / "dialog" / "EmoEvaluation").glob("[!.]*.txt")):
            dialogue = list(_read_dialogue(session, path, group=name.lower()))
            if not dialogue:
                problems.append(Problem("absent", str(path), "no line has a turn's times and label"))
            audio = session / "sentences" / "wav" / path.stem
            problems += extra_files(audio, [turn.audio for turn in dialogue])
            turns += dialogue
    return turns, problems


def _read_dialogue(session: Path, path: Path, *, group: str):
    transcripts = _read_transcripts(session / "dialog" / "transcriptions" / path.name)
    folder = session / "sentences" / "wav" / path.stem
    # Each turn's line, and the lines of its raters after it.
    parts = re.split(r"(?m)^(?=\[)", read_text(path, errors="replace"))
    for part in parts:
        found = _EVALUATION.match(part)
        if found is None:
            continue
        votes = [match[1] for match in map(_VOTE.match, part.splitlines()) if match is not None]
        start, end, name, code = found.groups()
        # The F or M of "Ses01F" is the actor with motion-capture markers; the speaker is in the last field's letter.
        letter = name.rsplit("_", 1)[1][0]
        speaker = f"{name[:5]}_{letter}"
        yield Turn(
            path.stem,
            speaker,
            os.path.join(folder, f"{name}.wav"),
            words=(_WORDS.get(code, code),),
            votes=tuple(filter(None, map(_categories, votes))),
            start=float(start),
            end=float(end),
            transcript=transcripts.get(name),
            group=group,
            # The files list the turns of one speaker after those of the other.
            order=(float(start), float(end), name),
            more={**_ratings(part[found.end() :].partition("\n")[0]), "gender": gender_of(letter)},
        )


def _ratings(text: str) -> dict[str, float | None]:
    """Valence, activation and dominance from "[2.5000, 3.0000, 2.0000]", scaled to 0..1."""
    found = _RATINGS.match(text)
    return {} if found is None else dict(zip(DIMENSIONS, (on_scale(value, 1, 5) for value in found.groups())))


def _categories(vote: str) -> tuple[str, ...]:
    """The words in "Anger; Frustration;"."""
    written = [word.strip() for word in vote.split(";") if word.strip()]
    return tuple(_VOTES.get(word, word.lower()) for word in written)


def _read_transcripts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = map(_TRANSCRIPT.match, read_text(path, errors="replace").splitlines())
    return {found[1]: found[2] for found in lines if found is not None}


IEMOCAP = Corpus(
    name="iemocap",
    title="IEMOCAP",
    read=read,
    label_sets={
        "4-class": same("neutral", "happy", "sad", "angry") | {"excited": "happy"},
        "6-class": same("happy", "sad", "neutral", "angry", "excited", "frustrated"),
        "raw": same(*_WORDS.values()),
    },
    fold_groups=tuple(f"session{number}" for number in range(1, 6)),
)
