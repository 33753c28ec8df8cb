"""Resample audio that arrives in pieces."""

from __future__ import annotations

import numpy as np
import soxr

from .turns import RATE


class StreamResampler:
    """Resamples pieces of audio to 16 kHz; the rate may change between pieces.

    Args:
        channels: number of channels of the audio.
    """

    def __init__(self, channels: int = 1):
        self._channels = channels
        self._resampler: soxr.ResampleStream | None = None
        self._rate: int | None = None

    def feed(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """The output at 16 kHz after the next samples, (channels, samples) float32."""
        before = None
        if rate != self._rate:
            before = self.flush()
            self._rate = rate
            self._resampler = None if rate == RATE else soxr.ResampleStream(rate, RATE, self._channels, "float32")
        after = samples if self._resampler is None else _resampled(self._resampler, samples, last=False)
        return after if before is None else np.concatenate([before, after], axis=1)

    def flush(self) -> np.ndarray:
        """The remaining output at the end, or before the rate changes."""
        rest = self._empty() if self._resampler is None else _resampled(self._resampler, self._empty(), last=True)
        self._resampler = self._rate = None
        return rest

    def _empty(self) -> np.ndarray:
        return np.zeros((self._channels, 0), np.float32)


def _resampled(resampler: soxr.ResampleStream, samples: np.ndarray, *, last: bool) -> np.ndarray:
    """(channels, samples); soxr uses the transposed order."""
    return resampler.resample_chunk(np.ascontiguousarray(samples.T), last=last).T
