"""Rules for turns, shared by all entry points: length, times, order, and names of speakers."""

from __future__ import annotations

import hashlib
import math
import reprlib
import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from .shortened import shortened


# Maximal length of the name of a conversation or a speaker, in characters.
MAX_NAME = 200
# How programs write that a field of a table is not given, as pandas reads it; people are called Nan, Null and NA.
NOT_GIVEN = ("<NA>", "#N/A", "N/A", "n/a", "nan", "NaN", "None", "null", "NULL")
# Pauses are searched in windows of `_WINDOW_FRAMES` frames of `_FRAME_SECONDS` each.
_FRAME_SECONDS, _WINDOW_FRAMES = 0.02, 10
# Seconds. Tools that round and pad may give a start slightly below 0; an earlier start is an error.
EARLIEST_START = -0.1


def fit_turn(
    waveform: np.ndarray, sampling_rate: int, *, min_seconds: float, max_seconds: float | None
) -> tuple[np.ndarray, float]:
    """Pad a turn with silence to `min_seconds`, or cut it to `max_seconds`.

    Args:
        waveform: (samples,).
        sampling_rate: sampling rate, in Hz.
        min_seconds, max_seconds: lengths that the host supports; None = no upper bound.

    Returns:
        The waveform, and the number of seconds of the turn that it includes.
    """
    seconds = len(waveform) / sampling_rate
    if max_seconds is not None and seconds > max_seconds:
        return waveform[: int(max_seconds * sampling_rate)], float(max_seconds)
    missing = math.ceil(min_seconds * sampling_rate) - len(waveform)
    return (np.pad(waveform, (0, missing)) if missing > 0 else waveform), seconds


def pieces_at_pauses(waveform: np.ndarray, sampling_rate: int, max_seconds: float) -> list[tuple[int, int]]:
    """Cut a long turn repeatedly, each time at the quietest point in the second half of the longest allowed piece.

    Args:
        waveform: (samples,).
        sampling_rate: sampling rate, in Hz.
        max_seconds: maximal length of a piece, in seconds.

    Returns:
        The first sample of each piece and the one after its last; one piece where the turn is not longer.

    Raises:
        ValueError: if pieces could not hold two of the windows in which pauses are looked for.
    """
    frame = max(1, round(_FRAME_SECONDS * sampling_rate))
    most = int(max_seconds * sampling_rate) // frame
    if most < 2 * _WINDOW_FRAMES:
        raise ValueError(
            f"Pieces of a turn last at least {2 * _WINDOW_FRAMES * _FRAME_SECONDS:g} s, got {max_seconds} s."
        )
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    energy = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)
    # Of the frames around the cut before each frame.
    around = np.convolve(energy, np.ones(_WINDOW_FRAMES))[_WINDOW_FRAMES // 2 - 1 :]
    cuts = [0]
    while len(waveform) - cuts[-1] * frame > max_seconds * sampling_rate:
        first = cuts[-1] + most // 2
        window = around[first : min(cuts[-1] + most, len(frames) - _WINDOW_FRAMES) + 1]
        cuts.append(first + len(window) - 1 - int(window[::-1].argmin()))  # the last of equals
    ends = [*(cut * frame for cut in cuts[1:]), len(waveform)]
    return list(zip([0, *ends], ends))


def pieces_of_long_turn(waveform: np.ndarray, sampling_rate: int, max_seconds: float | None) -> list[tuple[int, int]]:
    """The pieces of a turn that is longer than the host's window, without those that are silent.

    Args:
        waveform: (samples,).
        sampling_rate: sampling rate, in Hz.
        max_seconds: the window; None: a turn of any length is one piece.

    Returns:
        As `pieces_at_pauses`.
    """
    if max_seconds is None or len(waveform) <= max_seconds * sampling_rate:
        return [(0, len(waveform))]
    pieces = pieces_at_pauses(waveform, sampling_rate, max_seconds)
    return [(start, end) for start, end in pieces if waveform[start:end].any()]


class CutTurnWarning(UserWarning):
    """Turns were longer than the host's window, so only their beginning was used.

    Args:
        turns: name and length, in seconds, of each.
        max_seconds: the window.
    """

    def __init__(self, turns: Sequence[tuple[str, float]], max_seconds: float | None):
        self.turns, self.max_seconds = list(turns), max_seconds
        name, seconds = turns[0]
        message = f"{name} lasts {seconds:.1f} s; its"
        if len(turns) > 1:
            shown = shortened(f"{name} ({seconds:.1f} s)" for name, seconds in turns)
            message = f"{len(turns)} turns are longer than the host's window: {shown}; their"
        super().__init__(f"{message} first {max_seconds:g} s are used.")


def warn_of_cut_turns(turns: Sequence[tuple[str, float]], max_seconds: float | None, *, stacklevel: int = 2) -> None:
    """Issue one `CutTurnWarning` for all turns that were cut, if there are any."""
    if turns:
        warnings.warn(CutTurnWarning(turns, max_seconds), stacklevel=stacklevel + 1)


def check_times(start: Any, end: Any = None, *, name: str = "The turn") -> tuple[float | None, float | None]:
    """Check the start and end of a turn, in seconds of its recording.

    Turns may overlap: they are processed in the given order, which should be that of their ends.

    Args:
        start, end: in seconds; None if unknown.
        name: name of the turn in error messages.

    Returns:
        Start and end as given; a start between -0.1 s and 0 s becomes 0 s, with a warning.

    Raises:
        ValueError: for a value that is not a finite number, a start before -0.1 s, or an end before the start.
    """
    for what, value in (("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not _is_finite(value)):
            raise ValueError(f"{name}: {what} must be a number of seconds, got {_short(value)}.")
    if start is not None and start < 0:
        if start < EARLIEST_START:
            raise ValueError(f"{name}: a turn must start at 0 s or later, got {start} s.")
        warnings.warn(f"{name}: a turn must start at 0 s or later, got {start} s: 0 s is used.", stacklevel=3)
        start = 0.0
    if end is not None and end < (start or 0.0):
        raise ValueError(f"{name}: a turn must end after it starts, got {start} to {end} s.")
    return start, end


def check_turn_index(index: Any, before: Any = None, *, name: str = "The turn", each_once: bool = False) -> None:
    """Check that a turn's number is not below that of the turn before it.

    Args:
        index: of the turn; None if unknown.
        before: of the previous turn in its conversation; None if unknown, or if there is none.
        name: name of the turn in error messages.
        each_once: also reject equal numbers.

    Raises:
        ValueError: for a value that is not a number, or is out of order.
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
    """Check a name, since names are kept with every turn and shown in messages.

    Args:
        value: the name.
        what: what it names, in error messages.
        most: maximal number of characters.

    Raises:
        ValueError: for a value that is not a string, is longer, or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what}: the name must be a string, got {_short(value)}.")
    if len(value) > most:
        raise ValueError(f"{what}: the name may have up to {most} characters, got {len(value)}.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{what}: the name cannot be encoded as UTF-8: {_short(value)}.")


def is_much_longer(seconds: float, start: float, end: float) -> bool:
    """Whether audio lasts at least twice as long as the times of a turn say, as a whole recording does."""
    return seconds > 2 * (end - start) + 1.0


def check_flag(value: Any, what: str) -> None:
    """Check an option that is on or off: text such as "no" would count as on.

    Raises:
        ValueError: for a value that is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{what} must be True or False, got {_short(value)}.")


def given_text(value: Any) -> str:
    """The text of a table's field, without blanks around it; "" if it is not given: None, or one of `NOT_GIVEN`."""
    text = "" if value is None else str(value).strip()
    return "" if text in NOT_GIVEN else text


def is_named(speaker: str | None) -> bool:
    """Whether a speaker is given: not None, blank, "unknown", or one of `NOT_GIVEN`."""
    return given_text(speaker).lower() not in ("", "unknown", "<na>")


def check_named(speakers: Iterable[str | None], *, name: str = "A turn") -> None:
    """Check that each turn has a speaker, where the memory is kept per speaker: others would share one.

    Raises:
        ValueError: if a turn has no speaker.
    """
    if not all(map(is_named, speakers)):
        raise ValueError(
            f"{name} has no speaker, but speaker_ids are needed where memory_config.scope is 'speaker': give the "
            "speaker of every turn, or use a model with scope 'conversation'."
        )


def check_speakers(names: Iterable[str], most: int, *, conversation: str | None = None) -> None:
    """Check that a conversation has no more speakers than its memory can hold.

    Raises:
        ValueError: if there are more than `most`.
    """
    names = list(dict.fromkeys(map(str, names)))
    if len(names) > most:
        shown = shortened(map(_short, names), most + 3)
        owner = "a conversation" if conversation is None else repr(conversation)
        raise ValueError(
            f"The memory can hold max_speakers={most} speakers of a conversation, but {owner} has [{shown}]."
        )


def speaker_number(speaker: str) -> int:
    """A number derived from a speaker's name, the same in every process."""
    return int.from_bytes(hashlib.sha256(str(speaker).encode()).digest()[:7], "big")


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except (OverflowError, TypeError):  # an integer too large for a float
        return False


def _short(value: Any) -> str:
    text = reprlib.repr(value)  # short, even for nested values
    return text if len(text) <= 60 else f"{text[:60]}..."
