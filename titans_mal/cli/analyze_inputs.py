"""The turns of `titans-mal analyze`: from a folder, from audio files, or from a recording and its speakers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..data.audio import load_audio, part_of_file
from ..extras import MissingExtraError
from ..modeling.audio_source import file_of_part
from .messages import warn


def check_speaker_options(
    speaker: str | None,
    segments: Path | None,
    channels: str | None,
    crosstalk: float | None,
    speakers_by: str | None,
    max_speakers: int | None,
    speaker_threshold: float | None = None,
) -> None:
    options = {"--speaker": speaker, "--segments": segments, "--channels": channels, "--speakers-by": speakers_by}
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} all define the speakers: give only one of them.")
    if crosstalk is not None and not channels:
        raise ValueError("--crosstalk needs --channels.")
    for option, value in {"--max-speakers": max_speakers, "--speaker-threshold": speaker_threshold}.items():
        if value is not None and speakers_by is None:
            raise ValueError(f"{option} needs --speakers-by.")


def with_speakers(
    turns: list[dict], model_name: str, max_speakers: int | None, threshold: float | None = None
) -> list[dict]:
    """The turns of one recording, each assigned to the speaker with the most similar voice."""
    from ..live.speakers import DEFAULT_THRESHOLD, SpeakerAssigner, VoiceEmbedder

    if len({file_of_part(turn["file"]) for turn in turns}) > 1 or any(turn.get("speaker") for turn in turns):
        raise ValueError("--speakers-by needs one recording without speakers: remove the speakers or the other files.")
    threshold = DEFAULT_THRESHOLD if threshold is None else threshold
    assigner = SpeakerAssigner(VoiceEmbedder(model_name), threshold=threshold, max_speakers=max_speakers)
    return [{**turn, "speaker": assigner.assign(load_audio(turn["audio"]))} for turn in turns]


def channel_turns(inputs: list[Path], channels: str, crosstalk: float | None) -> list[dict]:
    """The turns of a recording with one speaker per channel."""
    from ..data.recordings import load_recording
    from ..live.channels import CROSSTALK_DB, channel_segments

    if len(inputs) > 1 or inputs[0].is_dir():
        raise ValueError(f"--channels needs exactly one recording, got {[str(path) for path in inputs]}.")
    speakers = [name.strip() for name in channels.split(",")]
    segments = channel_segments(inputs[0], speakers, crosstalk_db=CROSSTALK_DB if crosstalk is None else crosstalk)
    return [
        {**row, "file": row["audio"]["path"], "emotion": None} for row in load_recording(inputs[0], segments)["test"]
    ]


def turns_of(inputs: list[Path], segments: Path | None, speaker: str | None) -> Iterator[dict]:
    """The turns of a folder, of a recording split by segments or at pauses, or of one file per turn."""
    if segments is not None:
        if len(inputs) > 1 or inputs[0].is_dir():
            raise ValueError(f"--segments needs exactly one recording, got {[str(path) for path in inputs]}.")
        from ..data.recordings import load_recording

        for row in load_recording(inputs[0], segments)["test"]:
            yield {**row, "file": row["audio"]["path"], "emotion": None}
        return
    if len(inputs) == 1 and inputs[0].is_dir():
        from ..data.conversations import load_conversations

        for split in load_conversations(inputs[0]).values():
            labels = split.features["emotion"].names
            for row in split:
                emotion = labels[row["emotion"]] if row["emotion"] >= 0 else None
                yield {**row, "file": row["audio"]["path"], "emotion": emotion}
        return
    for index, path in enumerate(inputs):
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{path} {found}: give one folder with metadata.csv, or audio files.")
        parts = _parts_or_whole(path) if len(inputs) == 1 else []
        if len(parts) < 2:
            yield {"file": str(path), "audio": str(path), "turn_index": index, "speaker": speaker}
        for turn_index, (start, end) in enumerate(parts if len(parts) > 1 else ()):
            yield {
                "file": str(path),
                "audio": part_of_file(path, start, end),
                "turn_index": turn_index,
                "speaker": speaker,
                "start": start,
                "end": end,
            }


def _parts_or_whole(path: Path) -> list[tuple[float, float]]:
    """Start and end of each turn in a recording; empty, with a warning, if the speech detector is not installed."""
    from ..live.turn_detector import spoken_turns

    try:
        return [(turn.start, turn.end) for turn in spoken_turns(path)]
    except MissingExtraError as error:
        warn(f"{path.name} is processed as one turn. {error}")
        return []
