"""Audio from files, bytes and arrays; implemented in `modeling`, since the pipeline needs it on the Hub."""

from __future__ import annotations

import numpy as np

from ..modeling.audio_loading import (
    MIN_SECONDS,
    AudioDecodingError,
    AudioTooLong,
    SilentAudio,
    audio_blocks,
    audio_channels,
    audio_seconds,
    channel_blocks,
    channels_differ,
    check_level,
    check_waveform,
    load_audio,
    warn_of_mixed_channels,
)
from ..modeling.audio_source import part_of_file
from ..modeling.turn_rules import pieces_at_pauses


__all__ = [
    "MIN_SECONDS",
    "AudioDecodingError",
    "AudioTooLong",
    "SilentAudio",
    "audio_blocks",
    "audio_channels",
    "audio_seconds",
    "channel_blocks",
    "channels_differ",
    "check_level",
    "check_waveform",
    "load_audio",
    "load_turn",
    "part_of_file",
    "pieces_of_turn",
    "warn_of_mixed_channels",
]


def pieces_of_turn(audio, max_seconds: float) -> list[tuple[float, float]]:
    """Start and end, in seconds, of the pieces of up to `max_seconds` into which a turn is split at pauses.

    Args:
        audio: a source for `load_audio`.

    Raises:
        FileNotFoundError, ValueError: as `load_audio` and `pieces_at_pauses`.
    """
    rate = 16_000
    pieces = pieces_at_pauses(load_audio(audio, rate), rate, max_seconds)
    return [(start / rate, end / rate) for start, end in pieces]


def load_turn(audio, sampling_rate: int = 16_000) -> np.ndarray:
    """The audio of a turn of a table, at its full length: the host's inputs are padded or cut later.

    Args:
        audio: a source for `load_audio`.
        sampling_rate: sampling rate of the result, in Hz.

    Raises:
        FileNotFoundError, ValueError: as `load_audio`; also for audio that is silent.
    """
    return check_waveform(load_audio(audio, sampling_rate=sampling_rate), sampling_rate, min_seconds=0)
