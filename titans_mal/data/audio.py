"""Sound from files, bytes and arrays; it lives in `modeling`, for the pipeline takes it along to the Hub."""

from __future__ import annotations

import numpy as np

from ..modeling.audio_loading import (
    MIN_SECONDS,
    AudioDecodingError,
    AudioTooLong,
    audio_blocks,
    audio_channels,
    audio_seconds,
    channels_differ,
    check_level,
    check_waveform,
    load_audio,
    part_of_file,
    warn_of_mixed_channels,
)


__all__ = [
    "MIN_SECONDS",
    "AudioDecodingError",
    "AudioTooLong",
    "audio_blocks",
    "audio_channels",
    "audio_seconds",
    "channels_differ",
    "check_level",
    "check_waveform",
    "load_audio",
    "load_turn",
    "part_of_file",
    "warn_of_mixed_channels",
]


def load_turn(audio, sampling_rate: int = 16_000) -> np.ndarray:
    """The audio of a turn of a table, at its own length: the host's inputs are padded or cut to fit it.

    Args:
        audio: what `load_audio` takes.
        sampling_rate: of the result, in Hz.

    Raises:
        FileNotFoundError, ValueError: as `load_audio`; also for audio that is silent.
    """
    return check_waveform(load_audio(audio, sampling_rate=sampling_rate), sampling_rate, min_seconds=0)
