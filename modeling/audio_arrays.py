"""Audio in arrays: the accepted shapes, number types and scale, for all entry points."""

from __future__ import annotations

import warnings

import numpy as np


MAX_CHANNELS = 8
# Full scale is 1.0. Float recordings exceed it by a small factor; unscaled integers, and values whose squares overflow
# in a host's features, exceed it by thousands.
MAX_PEAK = 100.0
# A 32-bit recording with a lower peak would be quieter than -48 dBFS; it is probably 24-bit audio without the shift.
_LEAST_32_BIT_PEAK = 2**23


def channels_of(array, rate, name: str = "The array") -> tuple[np.ndarray, int]:
    """Convert an array of audio to (channels, samples) floats with full scale 1.0, and its rate in Hz.

    Args:
        array: (samples,) or (channels, samples) of up to 8 channels, as numpy or torch array or nested lists; the
            number types that `scaled_samples` accepts.
        rate: in Hz.
        name: name of the audio in error messages.

    Raises:
        ValueError: for another shape, a missing rate, and as `scaled_samples`.
    """
    if isinstance(array, int | float | np.integer) and hasattr(rate, "__len__"):
        raise ValueError(f"Audio in an array is (array, rate), got (rate, array) with rate={array!r}: swap them.")
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating) or not 0 < rate < 2**63:
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
    return scaled_samples(channels, name), int(rate)


def as_array(samples) -> np.ndarray:
    """Convert samples to numpy, including torch tensors on a device, with a gradient, or in bfloat16."""
    if hasattr(samples, "detach"):  # does not import torch, which audio alone does not need
        samples = samples.detach().cpu()
        return (samples.float() if str(samples.dtype) == "torch.bfloat16" else samples).numpy()
    return np.asarray(samples)


def scaled_samples(samples: np.ndarray, name: str = "The array") -> np.ndarray:
    """Scale samples to full scale 1.0.

    Floats are returned unchanged. 8-bit and 16-bit integers are PCM of their type, and so are 32-bit integers that use
    the range of their type. Wider integers that fit into 16 bits are treated as 16-bit samples, with a warning.

    Args:
        samples: of any shape.
        name: name of the audio in error messages.

    Returns:
        Floats of the same shape: the input itself if it was float, float64 otherwise.

    Raises:
        ValueError: for floats that hold unscaled integers, and for integers whose scale is unknown.
    """
    if not samples.size:
        return samples.astype(np.float64)
    if samples.dtype.kind == "f":
        # `check_level` reports values that are not finite or above MAX_PEAK.
        peak = np.abs(samples).max()
        if 1.0 < peak <= MAX_PEAK and (samples == np.round(samples)).all():
            raise ValueError(
                f"{name} holds integers as {samples.dtype} with a peak of {peak:.6g}, where full scale is 1.0: give "
                "16-bit samples as int16, or divide them by 32768."
            )
        return samples
    info = np.iinfo(samples.dtype)
    if info.bits <= 16:
        offset = 0 if info.min < 0 else (info.max + 1) / 2
        return (samples.astype(np.float64) - offset) / ((info.max + 1) if info.min < 0 else offset)
    peak = max(int(samples.max()), -int(samples.min()))
    if info.bits == 32 and info.min < 0 and peak >= _LEAST_32_BIT_PEAK:
        return samples / 2.0**31
    if info.min < 0 and peak <= 2**15:
        if peak:
            warnings.warn(
                f"{name} is {samples.dtype} with a peak of {peak}: it is treated as 16-bit samples.", stacklevel=3
            )
        return samples / 2.0**15
    raise ValueError(
        f"{name} is {samples.dtype} with a peak of {peak}, so its full scale is unknown: give int16, int32 that uses "
        "its full range, or floats in [-1, 1]."
    )
