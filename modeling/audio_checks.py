"""Checks of audio from outside, its rate, channels and level, and the errors that they raise."""

from __future__ import annotations

import math

import numpy as np

from .audio_arrays import MAX_PEAK


# Hz; lower rates cannot carry speech, and resampling is slow at rates that no device has.
MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_FILE_CHANNELS = 64
# Samples per second of audio, over all channels: eight channels at 192 kHz.
_MAX_VALUES_PER_SECOND = 8 * 192_000


class AudioDecodingError(ValueError):
    """The content of a file or of bytes is not usable audio."""


class AudioTooLong(AudioDecodingError):
    """The audio is longer than allowed."""


def check_rate(rate: int, name: str = "A sampling rate") -> None:
    """Check a sampling rate.

    Raises:
        ValueError: unless it is an integer number of Hz from `MIN_RATE` to `MAX_RATE`.
    """
    is_whole = isinstance(rate, int | np.integer) and not isinstance(rate, bool)
    if not is_whole or not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(
            f"{name} must be an integer number of Hz from {MIN_RATE:,} to {MAX_RATE:,}, got {shown(rate)}."
        )


def check_format(rate: int, channels: int, name: str) -> None:
    """Check that rate and channels are those of a plausible recording.

    Raises:
        AudioDecodingError: with the rate and channels found.
    """
    is_allowed = MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_FILE_CHANNELS
    if not is_allowed or rate * channels > _MAX_VALUES_PER_SECOND:
        raise AudioDecodingError(
            f"{name} has {channels} channels at {rate} Hz; allowed are 1 to {MAX_FILE_CHANNELS} at {MIN_RATE:,} to "
            f"{MAX_RATE:,} Hz, and up to {_MAX_VALUES_PER_SECOND:,} samples per second over all channels."
        )


def check_level(samples: np.ndarray, name: str) -> None:
    """Check that samples (any shape, full scale 1.0) are finite and at most `MAX_PEAK`.

    Raises:
        AudioDecodingError: with the number of values that are not finite, or the peak.
    """
    if not samples.size:
        return
    peak = max(float(samples.max()), -float(samples.min()))
    if not math.isfinite(peak):  # the maximum is NaN if any value is
        count = int((~np.isfinite(samples)).sum())
        raise AudioDecodingError(f"{name} has {count} samples that are not finite.")
    if peak > MAX_PEAK:
        raise AudioDecodingError(
            f"{name} has a peak of {peak:.4g}, where full scale is 1.0 and the maximum is {MAX_PEAK:g}: scale it to "
            "[-1, 1], or give integer samples in an integer type."
        )


def shown(value, most: int = 200) -> str:
    """A value as error messages show it, cut to a maximal length since it may be untrusted."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"
