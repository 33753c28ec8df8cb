"""Audio in arrays: which shapes and numbers are taken, and at which scale; one rule for every way in."""

from __future__ import annotations

import warnings

import numpy as np


MAX_CHANNELS = 8
# Full scale is 1.0. Recordings in float pass it by a few times; integers that were never scaled, and numbers whose
# squares overflow in the features of a host, by thousands and more.
MAX_PEAK = 100.0
# Below it a 32-bit recording would be quieter than -48 dB of full scale; it is rather one of 24 bits, never shifted.
_LEAST_32_BIT_PEAK = 2**23


def channels_of(array, rate, name: str = "The array") -> tuple[np.ndarray, int]:
    """An array of audio as (channels, samples) of floats with full scale 1.0, and its rate in Hz.

    Args:
        array: (samples,) or (channels, samples) of up to 8 channels, numpy's, torch's or nested lists; numbers as
            `scaled_samples` takes them.
        rate: in Hz.
        name: of the audio, for errors.

    Raises:
        ValueError: for another shape, no rate, and as `scaled_samples`.
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
    """What numpy makes of samples; also of tensors on a device, that need a gradient, or of bfloat16."""
    if hasattr(samples, "detach"):  # without torch, which audio alone does not need
        samples = samples.detach().cpu()
        return (samples.float() if str(samples.dtype) == "torch.bfloat16" else samples).numpy()
    return np.asarray(samples)


def scaled_samples(samples: np.ndarray, name: str = "The array") -> np.ndarray:
    """Samples with full scale 1.0.

    Floats are taken as they are. Integers of 8 and 16 bits are PCM of their type, and so are those of 32 bits that
    use their range. Wider integers that fit into 16 bits are 16-bit samples, which a warning says.

    Args:
        samples: of any shape.
        name: of the audio, for errors.

    Returns:
        Floats of the same shape: those that were given, or float64.

    Raises:
        ValueError: for floats that hold integers beyond full scale, which were never scaled, and for integers whose
            scale cannot be known.
    """
    if not samples.size:
        return samples.astype(np.float64)
    if samples.dtype.kind == "f":
        # What is not finite, or beyond that, `check_level` names.
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
                f"{name} is {samples.dtype} with a peak of {peak}: it is taken for 16-bit samples.", stacklevel=3
            )
        return samples / 2.0**15
    raise ValueError(
        f"{name} is {samples.dtype} with a peak of {peak}, whose full scale is not known: give int16, int32 that uses "
        "its range, or floats in [-1, 1]."
    )
