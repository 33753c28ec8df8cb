"""What a turn may be: its length, its times and its speaker. One rule for every way in."""

from __future__ import annotations

import hashlib
import math
import reprlib
import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np


# Characters of a name of a conversation or a speaker.
MAX_NAME = 200
# Of a start before the recording, in seconds: more is an error, less is how tools round and pad.
EARLIEST_START = -0.1


def fit_turn(
    waveform: np.ndarray, sampling_rate: int, *, min_seconds: float, max_seconds: float | None
) -> tuple[np.ndarray, float]:
    """A turn of a length that the host takes: a shorter one ends in silence, of a longer one the beginning is left.

    Args:
        waveform: (samples,).
        sampling_rate: in Hz.
        min_seconds, max_seconds: that the host takes; None = no upper bound.

    Returns:
        The waveform, and how many seconds of the turn it holds.
    """
    seconds = len(waveform) / sampling_rate
    if max_seconds is not None and seconds > max_seconds:
        return waveform[: int(max_seconds * sampling_rate)], float(max_seconds)
    missing = math.ceil(min_seconds * sampling_rate) - len(waveform)
    return (np.pad(waveform, (0, missing)) if missing > 0 else waveform), seconds


class CutTurnWarning(UserWarning):
    """Turns were longer than the host's window, and their beginning was used.

    Args:
        turns: name and length, in seconds, of each.
        max_seconds: the window.
    """

    def __init__(self, turns: Sequence[tuple[str, float]], max_seconds: float | None):
        self.turns, self.max_seconds = list(turns), max_seconds
        name, seconds = turns[0]
        told = f"{name} lasts {seconds:.1f} s; its"
        if len(turns) > 1:
            shown = ", ".join(f"{name} ({seconds:.1f} s)" for name, seconds in turns[:3])
            more = ", ..." if len(turns) > 3 else ""
            told = f"{len(turns)} turns last longer than the host processes: {shown}{more}; their"
        super().__init__(f"{told} first {max_seconds:g} s are used.")


def warn_of_cut_turns(turns: Sequence[tuple[str, float]], max_seconds: float | None, *, stacklevel: int = 2) -> None:
    """One `CutTurnWarning` of all turns that were cut, with its arguments; none where none was."""
    if turns:
        warnings.warn(CutTurnWarning(turns, max_seconds), stacklevel=stacklevel + 1)


def check_times(start: Any, end: Any = None, *, name: str = "The turn") -> tuple[float | None, float | None]:
    """When a turn starts and ends, in seconds of its recording.

    Turns may overlap: they are taken in the order in which they are given, which is that of their ends.

    Args:
        start, end: in seconds; None: not known.
        name: of the turn, for errors.

    Returns:
        Start and end as they were given; a start of down to -0.1 s is 0 s, which a warning says.

    Raises:
        ValueError: for what is no finite number, an earlier start, or an end before its start.
    """
    for what, value in (("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not _is_finite(value)):
            raise ValueError(f"{name}: {what} is in seconds, got {_short(value)}.")
    if start is not None and start < 0:
        if start < EARLIEST_START:
            raise ValueError(f"{name}: a turn starts at 0 s or later, got {start} s.")
        warnings.warn(f"{name}: a turn starts at 0 s or later, got {start} s: 0 s is used.", stacklevel=3)
        start = 0.0
    if start is not None and end is not None and end < start:
        raise ValueError(f"{name}: A turn ends after it starts, got {start} to {end} s.")
    return start, end


def check_turn_index(index: Any, before: Any = None, *, name: str = "The turn", each_once: bool = False) -> None:
    """Refuse the number of a turn that is not after that of the turn before it.

    Args:
        index: of the turn; None: not known.
        before: of the turn before it in its conversation; None: not known, or there is none.
        name: of the turn, for errors.
        each_once: two turns may not have the same number.

    Raises:
        ValueError: for what is no number, or comes too late.
    """
    if index is None:
        return
    if isinstance(index, bool) or not isinstance(index, Real) or not _is_finite(index):
        raise ValueError(f"{name} has turn_index={_short(index)}, which is not a number.")
    if before is not None and (index <= before if each_once else index < before):
        once = ", each once" if each_once else ""
        raise ValueError(
            f"Turns of a conversation must come in order{once}: {name} has turn_index={index} after {before}."
        )


def check_text(value: Any, what: str, *, most: int = MAX_NAME) -> None:
    """Refuse what is no name: names are kept with every turn, and shown in errors.

    Args:
        value: that was given.
        what: it is, for errors.
        most: characters.

    Raises:
        ValueError: for what is not text, is longer, or has code points that no encoding has.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is named by text, got {_short(value)}.")
    if len(value) > most:
        raise ValueError(f"{what} has a name of up to {most} characters, got {len(value)}.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what} has a name that is no text in UTF-8: {_short(value)}.")


def is_named(speaker: str | None) -> bool:
    """Whether somebody is named: not None, nor blank, nor "unknown", as tables have it for nobody."""
    return speaker is not None and str(speaker).strip().lower() not in ("", "unknown", "<na>")


def check_named(speakers: Iterable[str | None], *, name: str = "A turn") -> None:
    """Refuse turns without a speaker where the memory is kept by speaker: they would share one.

    Raises:
        ValueError: if a turn names nobody.
    """
    if not all(map(is_named, speakers)):
        raise ValueError(
            f"{name} names no speaker, and speaker_ids are needed where memory_config.scope is 'speaker': name who "
            "talks in every turn, or use a model whose memory is of the conversation."
        )


def check_speakers(names: Iterable[str], most: int, *, conversation: str | None = None) -> None:
    """Refuse more speakers of a conversation than its memory has room for, and name them.

    Raises:
        ValueError: if there are more than `most`.
    """
    names = list(dict.fromkeys(map(str, names)))
    if len(names) > most:
        shown = ", ".join(map(_short, names[: most + 3])) + (", ..." if len(names) > most + 3 else "")
        whose = "a conversation" if conversation is None else repr(conversation)
        raise ValueError(
            f"The memory has room for max_speakers={most} speakers of a conversation, and {whose} has [{shown}]."
        )


def speaker_number(speaker: str) -> int:
    """A number that stands for a speaker's name in every process."""
    return int.from_bytes(hashlib.sha256(str(speaker).encode()).digest()[:7], "big")


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):  # an integer beyond every float
        return False


def _short(value: Any) -> str:
    text = reprlib.repr(value)  # which is short, and does not follow what is nested
    return text if len(text) <= 60 else f"{text[:60]}..."
