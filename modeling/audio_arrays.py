"""Audio in arrays: the accepted shapes, number types and scale, for all entry points."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

import numpy as np


MAX_CHANNELS = 8
# Full scale is 1.0. Float recordings exceed it by a small factor; unscaled integers, and values whose squares overflow
# in a host's features, exceed it by thousands.
MAX_PEAK = 100.0
# A 32-bit recording of at most this peak would be below -48 dBFS; it is probably 24-bit audio without the shift.
_24_BIT_PEAK = 2**23
# How much larger the mean level of wrapped samples is, at least; the mean of audio stays below 4/5 of full scale.
_WRAPPED = 4
# Number of samples per channel that are inspected at a time, so that long arrays are never copied as a whole.
_BLOCK = 1 << 16


class Scale(NamedTuple):
    """The sample values of silence and full scale in an array."""

    zero: float = 0.0
    full: float = 1.0

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Samples with full scale 1.0: the input itself if it is float, float64 otherwise."""
        return samples if samples.dtype.kind == "f" else (samples.astype(np.float64) - self.zero) / self.full


def channels_of(array, rate, name: str = "The array") -> tuple[np.ndarray, int, Scale]:
    """Convert an array of audio to (channels, samples), its rate in Hz, and the scale of its samples.

    Args:
        array: (samples,) or (channels, samples) of up to 8 channels, as numpy or torch array or nested lists; the
            number types that `scale_of` accepts.
        rate: sampling rate, a whole number of Hz.
        name: name of the audio in error messages.

    Raises:
        ValueError: for another shape, a missing rate, and as `scale_of`.
    """
    if isinstance(array, int | float | np.integer) and hasattr(rate, "__len__"):
        raise ValueError(f"Audio in an array is (array, rate), got (rate, array) with rate={array!r}: swap them.")
    if isinstance(array, str | bytes | bytearray | dict | os.PathLike):
        raise ValueError(
            f"Audio with a sampling rate is an array, got {type(array).__name__}: a file has its own rate, and "
            "numpy.frombuffer makes an array of bytes of PCM."
        )
    is_number = isinstance(rate, int | float | np.integer | np.floating) and not isinstance(rate, bool)
    if not is_number or not 0 < rate < 2**63 or rate % 1:
        got = repr(rate) if rate is None or isinstance(rate, str | int | float) else type(rate).__name__
        raise ValueError(f"An array needs its sampling rate in Hz: (array, rate); got rate={got:.100}.")
    array = as_array(array)
    channels = array[None] if array.ndim == 1 else array
    if array.dtype.kind not in "fiu" or channels.ndim != 2 or not 0 < channels.shape[0] <= MAX_CHANNELS:
        is_transposed = channels.ndim == 2 and 0 < channels.shape[1] <= MAX_CHANNELS
        hint = " soundfile and Gradio give (samples, channels): transpose it." if is_transposed else ""
        raise ValueError(
            f"Audio in an array must be (samples,) or (channels, samples) with up to {MAX_CHANNELS} channels, got "
            f"{array.dtype} {array.shape}.{hint}"
        )
    return channels, int(rate), scale_of(channels, name)


def as_array(samples) -> np.ndarray:
    """Convert samples to numpy, including torch tensors on a device, with a gradient, or in bfloat16.

    Raises:
        ValueError: for nested lists of different lengths.
    """
    if hasattr(samples, "detach"):  # does not import torch, which audio alone does not need
        samples = samples.detach().cpu()
        return (samples.float() if str(samples.dtype) == "torch.bfloat16" else samples).numpy()
    try:
        return np.asarray(samples)
    except ValueError as error:
        raise ValueError(f"Audio in an array must have channels of one length, of numbers: {error}") from error


def scale_of(samples: np.ndarray, name: str = "The array") -> Scale:
    """Find the sample values of silence and full scale.

    Floats have full scale 1.0. 8-bit and 16-bit integers are PCM of their type, and so are 32-bit integers that use
    the range of their type. Wider integers that fit into 16 bits are treated as 16-bit samples, with a warning.

    Args:
        samples: (..., samples).
        name: name of the audio in error messages.

    Raises:
        ValueError: for floats that hold unscaled integers, for signed samples in an unsigned type, and for integers
            whose scale is unknown.
    """
    if not samples.size:
        return Scale()
    peak = max(samples.max().item(), -samples.min().item())
    if samples.dtype.kind == "f":
        # `check_level` reports values that are not finite or above MAX_PEAK.
        if 1.0 < peak <= MAX_PEAK and _are_integers(samples):
            raise ValueError(
                f"{name} holds integers as {samples.dtype} with a peak of {peak:.6g}, where full scale is 1.0: give "
                "16-bit samples as int16, or divide them by 32768."
            )
        return Scale()
    info = np.iinfo(samples.dtype)
    if info.bits <= 16 and info.min == 0 and _is_wrapped(samples):
        raise ValueError(
            f"{name} holds signed samples as {samples.dtype}, so negative samples have wrapped around to large "
            f"values: give them as int{info.bits}."
        )
    if info.bits <= 16:
        return Scale(0.0, float(info.max) + 1) if info.min < 0 else Scale(*[(info.max + 1) / 2] * 2)
    if info.bits == 32 and info.min < 0 and peak > _24_BIT_PEAK:
        return Scale(full=2.0**31)
    if info.min < 0 and peak <= 2**15:
        if peak:
            warnings.warn(
                f"{name} is {samples.dtype} with a peak of {peak}: it is treated as 16-bit samples.", stacklevel=3
            )
        return Scale(full=2.0**15)
    raise ValueError(
        f"{name} is {samples.dtype} with a peak of {peak}, so its full scale is unknown: give int16, int32 that uses "
        "its full range, or floats in [-1, 1]."
    )


def _is_wrapped(samples: np.ndarray) -> bool:
    """Whether unsigned samples are much nearer to silence when read as signed; this never holds for unsigned audio."""
    bits = 8 * samples.dtype.itemsize
    as_unsigned = as_signed = 0
    for start in range(0, samples.shape[-1], _BLOCK):
        block = samples[..., start : start + _BLOCK].astype(np.int64)
        as_unsigned += int(np.abs(block - 2 ** (bits - 1)).sum())
        as_signed += int(np.minimum(block, 2**bits - block).sum())
    return as_unsigned > _WRAPPED * as_signed


def _are_integers(samples: np.ndarray) -> bool:
    blocks = (samples[..., start : start + _BLOCK] for start in range(0, samples.shape[-1], _BLOCK))
    return all((block == np.round(block)).all() for block in blocks)
