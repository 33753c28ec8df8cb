"""MSP-IMPROV (Busso et al. 2017): improvised and natural turns of twelve actors in six sessions.

    Evalution.txt                                               (sic) labels, with the raters' lines
    session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav              or below Audio/

S01A is the target sentence and the emotion in which it should be spoken, which is not the label; F01 the actor who
should say it, of session 1; P natural conversation in breaks, R the sentence read, S the sentence in an improvisation,
T the other turns of the improvisation; FM01 two letters for the actors, and a number.

No public document that we found defines the speaker of a turn. In R and S it is by definition the actor who says the
target sentence. In P and T, with turns of both actors, the first letter of the last field is used: check this against
the documentation of your copy. Folds are by session, so both actors of a session stay together in any case. Within P,
and within S and T together, turns are ordered by their number, then by their letters.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..audio_paths import SUFFIXES
from ..problems import Problem
from ..table import Turn, on_scale
from ..text_files import read_text
from .corpus import Corpus, find, gender_of, same


# "UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.0; V:3.5; D:3.0 ; N:4.0;"; the raters' lines below have another form.
_EVALUATION = re.compile(r"UTD-IMPROV-((S\d+[A-Z])-([FM])(\d+)-([PRST])-([FM])([FM])(\d+))\.avi\s*;\s*([A-Z])\s*;")
# Activation, valence and dominance in the same line, on scales from 1 to 5; NaN if there is no rating.
_RATING = re.compile(r"\b([AVD]):([\d.]+|NaN)")
_DIMENSIONS = {"V": "valence", "A": "arousal", "D": "dominance"}
_WORDS = {"A": "angry", "H": "happy", "S": "sad", "N": "neutral", "O": "other", "X": "undecided"}


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of the evaluation file; times are unknown."""
    labels = read_text(find(root, "Evalution.txt", "Evaluation.txt"), errors="replace")
    files = [path for path in sorted(root.rglob("MSP-IMPROV-*")) if path.suffix.lower() in SUFFIXES]
    audio = {path.stem: path for path in files}
    transcripts = _read_transcripts(root)
    turns = [_turn(found, audio, transcripts) for found in map(_EVALUATION.match, labels.splitlines()) if found]
    if not turns:
        raise ValueError(
            f"{root}: the evaluation file has no line like 'UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.0; ...'"
        )
    known = {turn.audio for turn in turns}
    extra = [path for path in files if str(path) not in known]
    return turns, [Problem("extra", str(path), "the corpus' table has no such turn") for path in extra]


def _turn(found: re.Match, audio: dict[str, Path], transcripts: dict[str, str]) -> Turn:
    name, target, gender, session, scenario, first_letter, second_letter, number, code = found.groups()
    stem = f"MSP-IMPROV-{name}"
    part = {"S": "ST", "T": "ST"}.get(scenario, scenario)  # the target sentence is a turn of its improvisation
    speaker = gender if scenario in "RS" else first_letter
    return Turn(
        f"{target}-{gender}{session}-{part}",
        f"{speaker}{session}",
        str(audio.get(stem, f"{stem}.wav")),
        words=(_WORDS.get(code, code),),
        transcript=transcripts.get(stem),
        group=f"session{int(session)}",
        order=(int(number), first_letter, second_letter, scenario),
        more={"gender": gender_of(speaker)}
        | {_DIMENSIONS[key]: on_scale(value, 1, 5) for key, value in _RATING.findall(found.string[found.end() :])},
    )


def _read_transcripts(root: Path) -> dict[str, str]:
    try:
        folder = find(root, "All_human_transcriptions")
    except FileNotFoundError:
        return {}
    return {path.stem: read_text(path, errors="replace").strip() for path in folder.rglob("MSP-*.txt")}


MSP_IMPROV = Corpus(
    name="msp-improv",
    title="MSP-IMPROV",
    read=read,
    label_sets={"4-class": same("neutral", "happy", "sad", "angry"), "raw": same(*_WORDS.values())},
    fold_groups=tuple(f"session{number}" for number in range(1, 7)),
)
