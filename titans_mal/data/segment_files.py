"""Read who speaks when in a recording from files of diarisation and transcription tools: RTTM, whisperX JSON, CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path, PurePath, PureWindowsPath

from ..modeling.json_text import parse_json
from ..modeling.turn_rules import check_text, given_text
from .problems import Problem, report_problems
from .text_files import our_names, parse_seconds, read_table, read_text


@dataclass(frozen=True)
class Segment:
    """A part of a recording with one speaker.

    Attributes:
        start, end: seconds of the recording.
        speaker: "" if unknown.
        transcript: None if unknown.
        channel: channel of the recording, counted from 1; None: all channels, mixed.
    """

    start: float
    end: float
    speaker: str = ""
    transcript: str | None = None
    channel: int | None = None

    def __post_init__(self):
        check_text(self.speaker, "A speaker")
        for name, value in (("start", self.start), ("end", self.end)):
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(f"The {name} of a segment must be a number of seconds, got {value!r:.100}.")
        is_number = isinstance(self.channel, Integral) and not isinstance(self.channel, bool)
        if self.channel is not None and not (is_number and self.channel >= 1):
            raise ValueError(
                f"channel must be an integer from 1, or None for all channels, got {self.channel!r:.100}."
            )


# A segment with its place in its file, such as "line 3".
Placed = tuple[str, Segment]
# The same before parsing, which may raise a ValueError.
_Unread = tuple[str, Callable[[], Segment]]

# Seconds. Diarisations and transcriptions may end slightly after the recording; beyond this, they belong to another
# recording or use another unit.
END_TOLERANCE = 2.0
_COLUMNS = {
    "start": ("start_time", "starttime", "begin", "onset"),
    "end": ("end_time", "endtime", "stop", "offset"),
    "speaker": ("speaker_id", "speaker_label"),
    "transcript": ("text", "transcription", "utterance"),
    "channel": (),
}


def read_segments(path: str | Path, recording: str | Path | None = None) -> list[Segment]:
    """Read the segments of an RTTM, whisperX JSON or CSV file, in the order of the file.

    RTTM: lines `SPEAKER file channel start duration <NA> <NA> speaker <NA> <NA>`; the channel `<NA>` or 0 means all
    channels.
    JSON: `{"segments": [{"start": 0.5, "end": 2.0, "text": "...", "speaker": "..."}]}`, or only that list.
    CSV: the columns `start`, `end` (seconds, or h:mm:ss), and optionally `speaker`, `transcript` and `channel`
    (as in RTTM); also spelt `Start` or `text`; separated by commas, semicolons or tabs.
    The encoding may be UTF-8, UTF-16 or Windows-1252.

    Args:
        recording: selects the lines of an RTTM file, by the recording's name without its extension; None: the file
            must be of one recording.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, a file of other recordings only, or one without a readable segment,
            naming its first line. A warning counts other unreadable segments, and names the first.
    """
    names = () if recording is None else (PurePath(recording).stem,)
    placed, problems = read_segment_file(path, names)
    report_problems(problems, name=str(path), strict=False)
    return [segment for _, segment in placed]


def read_segment_file(path: str | Path, names: Sequence[str]) -> tuple[list[Placed], list[Problem]]:
    """The segments of a file with their places in it, and the unreadable ones as problems.

    Args:
        names: possible names of the recording; empty: any recording.

    Raises:
        FileNotFoundError, ValueError: as `read_segments`.
    """
    path = Path(path)
    readers = {".rttm": _rttm_lines, ".json": _json_items, ".csv": _csv_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Segments must be in a file of type {', '.join(readers)}, got {path.name!r}.")
    placed, problems = [], []
    for place, read in readers[path.suffix.lower()](path, names):
        try:
            placed.append((place, read()))
        except ValueError as error:
            problems.append(Problem("unreadable", str(path), f"{place}: {error}"))
    if not placed:
        raise ValueError(f"{path}, {problems[0].detail}" if problems else f"{path} has no segments.")
    return placed, problems


def _rttm_lines(path: Path, names: Sequence[str]) -> list[_Unread]:
    lines = [
        (f"line {number}", line.split())
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.upper().split()[:1] == ["SPEAKER"]
    ]
    recordings = {fields[1] for _, fields in lines if not _rttm_fault(fields)}
    wanted = {recording for recording in recordings if _is_one_of(recording, names)}
    if not names and len(recordings) > 1:
        raise ValueError(f"{path} has segments of several recordings {sorted(recordings)!s:.500}: select one.")
    if names and recordings and not wanted:
        raise ValueError(f"{path} has segments of {sorted(recordings)!s:.500} but not of the recording {names[0]!r}.")
    others = recordings - wanted if names else ()
    kept = [(place, fields) for place, fields in lines if len(fields) < 2 or fields[1] not in others]
    return [(place, partial(_rttm_segment, fields)) for place, fields in kept]


def _is_one_of(recording: str, names: Sequence[str]) -> bool:
    """Whether an RTTM file's recording is one of the names, which RTTM writes without blanks."""
    path = PureWindowsPath(recording)  # of Windows or POSIX
    written = {recording.casefold(), path.name.casefold(), path.stem.casefold()}
    meant = {form for name in map(str.casefold, names) for form in (name, "_".join(name.split()), *name.split()[:1])}
    return bool(written & meant)


def _rttm_fault(fields: list[str]) -> bool:
    """Whether blanks in a name have shifted the fields of a line."""
    return not (
        8 <= len(fields) <= 10
        and re.fullmatch(r"\d+|<NA>", fields[2])
        and not any(map(_is_number, fields[5:7]))
        # An integer after the name is probably the end of a name such as "Speaker 1".
        and all(field == "<NA>" or (_is_number(field) and not field.isdigit()) for field in fields[8:])
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", text) is not None


def _rttm_segment(fields: list[str]) -> Segment:
    if _rttm_fault(fields):
        raise ValueError(
            f"a SPEAKER line must have 8 to 10 fields without blanks, got {len(fields)}: {' '.join(fields)!r:.200}. "
            "The third is the channel, a number or <NA>."
        )
    start, duration = map(parse_seconds, fields[3:5])
    speaker, channel = map(given_text, (fields[7], fields[2]))
    return Segment(start, start + duration, speaker, channel=int(channel or 0) or None)


def _json_items(path: Path, names: Sequence[str]) -> list[_Unread]:
    content = parse_json(read_text(path), str(path))
    listed = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(segment, dict) for segment in listed):
        raise ValueError(f"{path} has no list of segments.")
    named = (dict(zip(our_names(list(segment), _COLUMNS), segment.values())) for segment in listed)
    return [(f"segment {number}", partial(_segment, segment)) for number, segment in enumerate(named)]


def _csv_rows(path: Path, names: Sequence[str]) -> list[_Unread]:
    times = ("start", "end")
    rows = read_table(path, _COLUMNS, required=times, numbers=times)
    return [(f"line {line}", partial(_segment, row)) for line, row in rows]


def _segment(fields: dict) -> Segment:
    if None in fields:
        raise ValueError("there are more fields than columns; quote fields with commas.")
    start, end = (parse_seconds(fields.get(name)) for name in ("start", "end"))
    given = (fields.get("speaker"), fields.get("transcript", fields.get("text")))
    speaker, transcript = map(given_text, given)
    return Segment(start, end, speaker, transcript or None, _channel(fields.get("channel")))


def _channel(value) -> int | None:
    """As in RTTM, 0 and <NA> mean all channels; tables with blanks may have 1.0 for 1."""
    text = given_text(value)
    if not text:
        return None
    if found := re.fullmatch(r"(\d+)(\.0*)?", text):
        return int(found[1]) or None
    raise ValueError(f"channel must be an integer from 1, got {value!r:.100}.")
