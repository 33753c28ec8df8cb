"""Turn one long recording and its segments, from a diarisation or transcription, into a conversation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..modeling.turn_rules import EARLIEST_START
from .audio import MIN_SECONDS, audio_channels, audio_seconds, channels_differ, part_of_file, warn_of_mixed_channels
from .problems import Problem, report_problems
from .segment_files import END_TOLERANCE, Segment, read_segment_file, read_segments
from .table import Conversations, conversation_table


__all__ = ["Segment", "load_recording", "read_segments"]

# Minimal length of a segment: a shorter one would have no samples.
_LEAST_SECONDS = 0.001
_NUM_COMPARED = 5
_BEYOND = ": are its times in seconds, and of this recording?"


def load_recording(
    recording: str | Path,
    segments: str | Path | Iterable[Segment],
    *,
    conversation_id: str | None = None,
    strict: bool = False,
) -> Conversations:
    """The turns of one recording, as a table like that of `load_conversations` with the single split "test".

    Turns are sorted by their end, as in a live conversation; where segments overlap, each turn has the audio of its
    full time span, including the other speaker. A segment that ends up to 2 s after the recording is cut to its end,
    and one that starts up to 0.1 s before 0 is cut to 0; both are listed in `.problems`. A segment with a channel uses
    only that channel; for others all channels are mixed. A warning says if different channels are mixed, or if several
    speakers are all on one of them (compared for a few segments; not for the 5.1 or 7.1 of a film). Nothing else is
    decoded, so memory does not grow with the recording; paths refer to parts of the recording, which `save_to_disk`
    cannot embed.

    Args:
        recording: the audio file.
        segments: a file for `read_segments`, or segments.
        conversation_id: None: the recording's name without its extension.
        strict: raise for a segment that is unreadable, empty or beyond the recording, instead of dropping it.

    Raises:
        FileNotFoundError, ValueError: as `read_segments` and `load_audio`; if no segment is usable, or most are beyond
            the recording; with `strict` also for a single one.
    """
    found = read_recording(recording, segments, conversation_id=conversation_id)
    report_problems(found.problems, name=str(found.recording), strict=strict)
    found.check_usable()
    found.warn_of_channels()
    return Conversations({"test": conversation_table(found.rows, [])}, found.problems)


@dataclass(frozen=True)
class RecordingTurns:
    """The turns of one recording.

    Attributes:
        recording: the audio file.
        channels: its number of channels.
        segments: number of readable segments.
        rows: the turns, for `conversation_table`.
        problems: unusable and corrected segments.
    """

    recording: Path
    channels: int
    segments: int
    rows: list[dict]
    problems: list[Problem]

    def check_usable(self) -> None:
        """Raise ValueError if no segment is usable, or most are beyond the recording."""
        if not self.rows:
            raise ValueError(f"{self.recording}: no segment is usable; the first problem is {self.problems[0]}")
        beyond = [problem for problem in self.problems if problem.detail.endswith(_BEYOND)]
        if len(beyond) > self.segments / 2:
            raise ValueError(
                f"{len(beyond)} of {self.segments} segments are beyond the recording; the first is {beyond[0]}"
            )

    def warn_of_channels(self) -> None:
        """Warn if different channels are mixed, or all but one are unused; a few segments are compared.

        Programs that mix all channels write channel 1 in their RTTM files. One speaker may have a channel alone.
        """
        paths = [row["audio"]["path"] for row in self.rows]
        used = {path.partition("&channel=")[2] for path in paths}
        if "" in used:
            if self._differ([path for path in paths if "&channel=" not in path]):
                warn_of_mixed_channels(str(self.recording), self.channels)
        elif len(used) == 1 and len({row["speaker"] for row in self.rows}) > 1 and self._differ(paths):
            warnings.warn(
                f"{self.recording}: all segments are on channel {used.pop()}, and the other channels, with different "
                "audio, are not used: if the segments are of all channels, give them the channel 0.",
                stacklevel=3,
            )

    def _differ(self, paths: list[str]) -> bool:
        """Whether the channels differ in any of a few of these parts of the recording."""
        compared = paths[:: max(1, len(paths) // _NUM_COMPARED)][:_NUM_COMPARED] if self.channels > 1 else ()
        return any(map(channels_differ, compared))


def read_recording(
    recording: str | Path, segments: str | Path | Iterable[Segment], *, conversation_id: str | None = None
) -> RecordingTurns:
    """The turns of one recording, without a warning for its problems; arguments as for `load_recording`.

    Raises:
        FileNotFoundError, ValueError: as `load_recording`, for unreadable files and for no segments.
    """
    recording = Path(recording).resolve()
    total, channels = audio_seconds(str(recording)), audio_channels(str(recording))
    name = conversation_id or recording.stem
    if isinstance(segments, str | Path):
        placed, problems = read_segment_file(segments, (recording.stem, name))
        placed = [(f"{segments}, {place}", segment) for place, segment in placed]
    else:
        placed, problems = [(f"segment {number}", segment) for number, segment in enumerate(segments)], []
        others = sorted({type(segment).__name__ for _, segment in placed if not isinstance(segment, Segment)})
        if others:
            raise ValueError(f"segments must be a file for `read_segments`, or a list of `Segment`; got {others}.")
    if not placed:
        raise ValueError(f"No segments were given for {recording}.")
    rows, seen = [], set()
    for index, (place, segment) in enumerate(sorted(placed, key=lambda found: (found[1].end, found[1].start))):
        start, end = max(0.0, segment.start), min(segment.end, total)
        place_and_speaker = segment.start, segment.end, segment.channel, segment.speaker
        if place_and_speaker in seen:
            found = [("repeated", f"{start:.3f} to {end:.3f} s of {segment.speaker} is given twice")]
        else:
            found = _kinds(segment, start, end, total, channels)
        seen.add(place_and_speaker)
        problems += [
            Problem(kind, str(recording), f"{place}: {detail}", "test", name, index) for kind, detail in found
        ]
        if not any(kind in ("outside", "repeated") for kind, _ in found):
            rows.append(_row(recording, name, index, segment, start, end, channels))
    return RecordingTurns(recording, channels, len(placed), rows, problems)


def _kinds(segment: Segment, start: float, end: float, total: float, channels: int) -> list[tuple[str, str]]:
    """Problems, as (kind, detail), of a segment whose part of the recording is from `start` to `end`."""
    span = f"{segment.start:.3f} to {segment.end:.3f} s, of a recording of {total:.3f} s"
    if segment.end > total + END_TOLERANCE:
        return [("outside", span + _BEYOND)]
    if segment.start < EARLIEST_START or end - start < _LEAST_SECONDS:
        return [("outside", span)]
    if segment.channel is not None and segment.channel > channels:
        return [("outside", f"channel {segment.channel}, of a recording with {channels}")]
    kinds = {"early": segment.start < 0, "long": segment.end > total, "short": end - start < MIN_SECONDS}
    return [(kind, span) for kind, is_so in kinds.items() if is_so]


def _row(recording: Path, name: str, index: int, segment: Segment, start: float, end: float, channels: int) -> dict:
    channel = segment.channel if channels > 1 else None
    return {
        "conversation_id": name,
        "turn_index": index,
        "speaker": segment.speaker or None,
        "audio": {"bytes": None, "path": part_of_file(recording, start, end, channel=channel)},
        "start": start,
        "end": end,
        "transcript": segment.transcript,
        "emotion": -1,
        "seconds": end - start,
    }
