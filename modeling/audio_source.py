"""What audio is decoded from: a path, a part of a file, one channel of a part, or encoded bytes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO

from .audio_checks import shown


# Start and end of a part of a file in seconds.
Part = tuple[float, float]
# A part of a file, as in "call.wav#t=12.5,17" (W3C Media Fragments 1.0, 4.2.1, in seconds), or one channel of a part,
# as in "call.wav#t=12.5,17&channel=2".
_FRAGMENT = re.compile(
    r"(?P<path>.+)#t=(?P<start>\d+(\.\d+)?),(?P<end>\d+(\.\d+)?)(&channel=(?P<channel>[1-9]\d*))?", re.DOTALL
)


def part_of_file(path: str | Path, start: float, end: float, *, channel: int | None = None) -> str:
    """The source for `load_audio` that means the audio of a file between two times, in seconds.

    Args:
        channel: the channel to use, counted from 1; None: all are mixed.

    Raises:
        ValueError: if the part does not start at 0 s or later, or does not end after that.
    """
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"A part of a file starts at 0 s or later and ends after that, got {start} to {end} s.")
    return f"{path}#t={start:.6f},{end:.6f}" + ("" if channel is None else f"&channel={channel}")


def file_of_part(source: str | Path) -> str:
    """The file that a path or a part of a file is in: the path itself unless it ends with `#t=START,END`."""
    fragment = None if _is_file(source) else _FRAGMENT.fullmatch(str(source))
    return str(source) if fragment is None else fragment["path"]


def channel_of_part(source: object) -> int | None:
    """The channel in `path#t=START,END&channel=N`, counted from 1; None for other sources."""
    if not isinstance(source, str | Path) or _is_file(source):
        return None
    fragment = _FRAGMENT.fullmatch(str(source))
    return None if fragment is None or fragment["channel"] is None else int(fragment["channel"])


def split_part(source: str | Path | bytes | bytearray) -> tuple[str | Path | bytes | bytearray, Part | None]:
    """Split the source into the whole file, a path or bytes, and the requested part of it; None = all.

    Raises:
        FileNotFoundError: for a path that does not exist.
    """
    if isinstance(source, bytes | bytearray) or _is_file(source):
        return source, None
    fragment = _FRAGMENT.fullmatch(str(source))
    if fragment is None or not _is_file(fragment["path"]):
        raise FileNotFoundError(f"No such audio file: {shown(str(source))}")
    return fragment["path"], (float(fragment["start"]), float(fragment["end"]))


def open_file(whole: str | Path | bytes | bytearray) -> BinaryIO:
    """Open a path, or encoded bytes, for reading."""
    return io.BytesIO(whole) if isinstance(whole, bytes | bytearray) else open(whole, "rb")


def source_in_messages(source: str | Path | bytes | bytearray) -> str:
    """The source in error messages."""
    return "the given bytes" if isinstance(source, bytes | bytearray) else shown(str(source))


def _is_file(path: str | Path) -> bool:
    """Whether it is a regular file; False for names that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
