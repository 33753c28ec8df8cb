"""One long recording and its segments, by a diarisation or a transcription, as the turns of a conversation."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from .audio import MIN_SECONDS, audio_seconds, part_of_file
from .problems import Problem, report_problems
from .table import Conversations, clock_seconds, conversation_table


# Less is no sound: a sample or two.
_LEAST_SECONDS = 0.001


@dataclass(frozen=True)
class Segment:
    """Who talks from when to when.

    Attributes:
        start, end: seconds of the recording.
        speaker: "" where it is not told.
        transcript: None where it is not told.
    """

    start: float
    end: float
    speaker: str = ""
    transcript: str | None = None


def read_segments(path: str | Path) -> list[Segment]:
    """Segments of an RTTM file, of whisperX's JSON, or of a CSV file, in their order there.

    RTTM: lines `SPEAKER file channel start duration <NA> <NA> speaker <NA> <NA>`; all of them are of one recording.
    JSON: `{"segments": [{"start": 0.5, "end": 2.0, "text": "...", "speaker": "..."}]}`, or that list alone.
    CSV: the columns `start`, `end` (seconds, or h:mm:ss), and optionally `speaker` and `transcript`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another kind of file, or naming the line or segment that cannot be read.
    """
    path = Path(path)
    readers = {".rttm": _read_rttm, ".json": _read_whisperx, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Segments come from {', '.join(readers)}, got {path.name!r}.")
    segments = readers[path.suffix.lower()](path.read_text(encoding="utf-8-sig"), path)
    if not segments:
        raise ValueError(f"{path} holds no segments.")
    return segments


def load_recording(
    recording: str | Path,
    segments: str | Path | Iterable[Segment],
    *,
    conversation_id: str | None = None,
    strict: bool = False,
) -> Conversations:
    """The turns of one recording, in the columns of `load_conversations`, all in the split "test".

    Turns are sorted by their start; where segments overlap, each hears the sound of its own time, of both speakers. A
    segment that ends after the recording is heard up to its end. Nothing is decoded: memory does not grow with the
    recording, and paths are parts of it, which `save_to_disk` cannot embed.

    Args:
        recording: the sound file.
        segments: a file for `read_segments`, or segments.
        conversation_id: None: the recording's name without its extension.
        strict: raise where a segment has no length or begins after the recording, instead of leaving it out.

    Raises:
        FileNotFoundError, ValueError: as `read_segments` and `load_audio`; with `strict` also for such segments.
    """
    recording = Path(recording).resolve()
    total = audio_seconds(str(recording))
    name = conversation_id or recording.stem
    found = read_segments(segments) if isinstance(segments, str | Path) else list(segments)
    if not found:
        raise ValueError(f"No segments were given for {recording}.")
    problems, rows = [], []
    for index, segment in enumerate(sorted(found, key=lambda segment: (segment.start, segment.end))):
        place = {"file": str(recording), "split": "test", "conversation_id": name, "turn_index": index}
        span = f"{segment.start:.3f} to {segment.end:.3f} s"
        end = min(segment.end, total)
        if not 0 <= segment.start <= end - _LEAST_SECONDS:
            detail = f"a segment from {span} of a recording of {total:.3f} s"
            problems.append(Problem("outside", detail=detail, **place))
            continue
        if segment.end > total:
            problems.append(Problem("long", detail=f"{span}, of a recording of {total:.3f} s", **place))
        if end - segment.start < MIN_SECONDS:
            problems.append(Problem("short", detail=span, **place))
        rows.append(_row(recording, name, index, segment, end))
    report_problems(problems, name=str(recording), strict=strict)
    if not rows:
        raise ValueError(f"{recording}: no segment can be used; the first problem is {problems[0]}")
    return Conversations({"test": conversation_table(rows, [])}, problems)


def _row(recording: Path, name: str, index: int, segment: Segment, end: float) -> dict:
    return {
        "conversation_id": name,
        "turn_index": index,
        "speaker": segment.speaker or "unknown",
        "audio": {"bytes": None, "path": part_of_file(recording, segment.start, end)},
        "start": segment.start,
        "end": end,
        "transcript": segment.transcript,
        "emotion": -1,
        "seconds": end - segment.start,
    }


def _read_rttm(text: str, path: Path) -> list[Segment]:
    segments, recordings = [], set()
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        if not (8 <= len(fields) <= 10 and re.fullmatch(r"\d+|<NA>", fields[2])):
            raise ValueError(
                f"{path}, line {number}: a SPEAKER line has 8 to 10 fields, and no blanks in them, got {len(fields)}."
            )
        recordings.add(fields[1])
        start, duration = (_seconds(value, f"{path}, line {number}") for value in fields[3:5])
        segments.append(Segment(start, start + duration, "" if fields[7] == "<NA>" else fields[7]))
    if len(recordings) > 1:
        raise ValueError(f"{path} is of several recordings {sorted(recordings)}: give the lines of one.")
    return segments


def _read_whisperx(text: str, path: Path) -> list[Segment]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    listed = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(segment, dict) for segment in listed):
        raise ValueError(f"{path} has no list of segments.")
    segments = []
    for number, segment in enumerate(listed):
        start, end = (_seconds(segment.get(key), f"{path}, segment {number}") for key in ("start", "end"))
        text = segment.get("text")
        transcript = None if text is None else str(text).strip()
        speaker = "" if segment.get("speaker") is None else str(segment["speaker"]).strip()
        segments.append(Segment(start, end, speaker, transcript or None))
    return segments


def _read_csv(text: str, path: Path) -> list[Segment]:
    reader = csv.DictReader(StringIO(text, newline=""))
    missing = [name for name in ("start", "end") if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}.")
    segments = []
    for number, row in enumerate(reader, start=2):
        if None in row:
            raise ValueError(f"{path}, line {number}: there are more fields than columns; quote what holds a comma.")
        start, end = (_seconds(row[name], f"{path}, line {number}") for name in ("start", "end"))
        speaker, transcript = ((row.get(name) or "").strip() for name in ("speaker", "transcript"))
        segments.append(Segment(start, end, speaker, transcript or None))
    return segments


def _seconds(value, where: str) -> float:
    """Of a number of seconds, or of h:mm:ss."""
    try:
        seconds = clock_seconds(value) if ":" in str(value) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"{where}: a time is a number of seconds or h:mm:ss, got {value!r}.")
    return seconds
