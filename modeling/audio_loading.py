"""Sound from files, bytes and arrays: mono float32 at one rate, its level kept."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .audio_arrays import MAX_PEAK, channels_of


# ITU-R BS.775-3, table 2, brought down to mono (front channels 0.7071, centre 1, surround 0.5); LFE is left out.
_MONO_WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0} | dict.fromkeys(("SL", "SR", "BL", "BR", "BC"), 0.5)
# A turn must last that long to be heard.
MIN_SECONDS = 0.1
# Encoders pad the last frame and containers round their times; less than this is no truncation.
_TRUNCATION_TOLERANCE = 0.05
_PROBE_BYTES = 4096
# A part of a file, as in "call.wav#t=12.5,17" (W3C Media Fragments 1.0, 4.2.1, in seconds).
_FRAGMENT = re.compile(r"(?P<path>.+)#t=(?P<start>\d+(\.\d+)?),(?P<end>\d+(\.\d+)?)")


class AudioDecodingError(ValueError):
    """The content of a file or of bytes is no usable sound."""


def load_audio(source, sampling_rate: int = 16_000) -> np.ndarray:
    """Decode, down-mix and resample.

    Args:
        source: a path, encoded bytes, a dict with `bytes` or `path` (as `datasets.Audio(decode=False)` gives; bytes
            win), a dict with `array` and `sampling_rate`, or a tuple `(array, rate)`; arrays as `channels_of` takes
            them. `path#t=START,END` (seconds) is that part of a file, of which no more than it is decoded where the
            format lets one seek.
        sampling_rate: of the result, in Hz.

    Returns:
        (samples,) float32, full scale 1.0; not normalised. Channels are mixed by the ITU-R BS.775 weights of their
        layout, normalised to sum to one, so that a sound that is alike in all channels keeps its level.

    Raises:
        FileNotFoundError: for a path that does not exist.
        AudioDecodingError: for content that is empty, not sound, not finite, or truncated, where the header of its
            format tells the length (WAV, FLAC, MP4, AIFF, AU); what is left of others is read.
        ValueError: for another kind of source, or an array of another shape.
    """
    if isinstance(source, dict):
        if source.get("array") is not None:
            source = (source["array"], source.get("sampling_rate"))
        else:
            source = _encoded(source)
    if isinstance(source, tuple) and len(source) == 2:
        channels, rate = channels_of(*source)
        check_level(channels, "The array")
        weights = np.full(len(channels), 1 / len(channels))
    elif isinstance(source, str | Path | bytes | bytearray):
        channels, rate, weights = _decode(source)
    else:
        raise ValueError(
            "A sound is a path, bytes, (array, rate), or a dict with bytes, path, or array and sampling_rate; got "
            f"{type(source).__name__}."
        )
    waveform = weights @ channels
    if rate != sampling_rate:
        waveform = _resample(waveform, rate, sampling_rate)
    return waveform.astype(np.float32)


def audio_seconds(source) -> float:
    """How long a sound is, by its header; it is decoded only where its format does not tell.

    Args:
        source: a path, a part of a file, encoded bytes or a dict with `bytes` or `path`, as `load_audio` takes.

    Raises:
        FileNotFoundError, AudioDecodingError: as `load_audio`, for what the header shows.
    """
    source = _encoded(source) if isinstance(source, dict) else source
    with _open(source, probesize=_PROBE_BYTES) as (_, stream, part):
        seconds = None if stream.duration is None else float(stream.duration * stream.time_base)
    if seconds is None:
        channels, rate, _ = _decode(source)
        return channels.shape[1] / rate
    return seconds if part is None else max(0.0, min(part[1], seconds) - part[0])


def part_of_file(path: str | Path, start: float, end: float) -> str:
    """What `load_audio` takes for the sound of a file between two times, in seconds.

    Raises:
        ValueError: if the part does not start at 0 s or later, or does not end after that.
    """
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"A part of a file starts at 0 s or later and ends after that, got {start} to {end} s.")
    return f"{path}#t={start:.6f},{end:.6f}"


def check_waveform(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float | None = None,
    name: str = "The turn",
) -> np.ndarray:
    """Refuse what is no turn, and cut what is longer than `max_seconds`, with a warning.

    Args:
        waveform: (samples,).
        sampling_rate: in Hz.
        min_seconds, max_seconds: allowed length; None = no upper bound.
        name: of the turn, for what is said of it.

    Returns:
        (samples,) float32.

    Raises:
        ValueError: for another shape, or audio that is empty, not finite, above `MAX_PEAK`, silent or too short.
    """
    with np.errstate(over="ignore"):  # what overflows is not finite
        waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"A turn's waveform must be (samples,), got {waveform.shape}.")
    if not len(waveform):
        raise ValueError(f"{name} is empty: it has no samples.")
    check_level(waveform, name)
    if not waveform.any():
        raise ValueError(f"{name} is silent: every sample is zero.")
    seconds = len(waveform) / sampling_rate
    if seconds < min_seconds:
        raise ValueError(f"{name} lasts {seconds:.3f} s; at least {min_seconds} s are needed.")
    if max_seconds is not None and seconds > max_seconds:
        warnings.warn(f"{name} lasts {seconds:.1f} s; its first {max_seconds:g} s are used.", stacklevel=3)
        waveform = waveform[: int(max_seconds * sampling_rate)]
    return waveform


def check_level(samples: np.ndarray, name: str) -> None:
    """Refuse samples of any shape that are not finite, or beyond `MAX_PEAK`, where full scale is 1.0.

    Raises:
        AudioDecodingError: with the peak.
    """
    if not samples.size:
        return
    peak = max(float(samples.max()), -float(samples.min()))
    if not math.isfinite(peak):  # a NaN is the maximum of whatever has one
        count = int((~np.isfinite(samples)).sum())
        raise AudioDecodingError(f"{name} has {count} samples that are not finite.")
    if peak > MAX_PEAK:
        raise AudioDecodingError(
            f"{name} has a peak of {peak:.4g}, where full scale is 1.0 and {MAX_PEAK:g} the most that is taken: "
            "scale it to [-1, 1], or give integers as such."
        )


def name_of_sound(source) -> str:
    """The path of a source of `load_audio`, where it has one; "The turn" otherwise."""
    path = source.get("path") if isinstance(source, dict) else source
    return str(path) if isinstance(path, str | Path) else "The turn"


def _encoded(source: dict):
    """The bytes of a dict, or its path."""
    return source.get("bytes") or source.get("path")


@contextlib.contextmanager
def _open(source, *, probesize: int | None = None) -> Iterator[tuple]:
    """The container, its audio stream, and the part of it that is meant (start, end) in seconds; None = all.

    Of a WAV file, whose header tells it all, FFmpeg looks at no more than `probesize` bytes of sound.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Decoding sound needs PyAV: pip install av soxr") from error
    name, part = _name(source), None
    if isinstance(source, str | Path) and not Path(source).is_file():
        fragment = _FRAGMENT.fullmatch(str(source))
        if fragment is None or not Path(fragment["path"]).is_file():
            raise FileNotFoundError(f"No such sound file: {source}")
        source, part = fragment["path"], (float(fragment["start"]), float(fragment["end"]))
    size = len(source) if isinstance(source, bytes | bytearray) else Path(source).stat().st_size
    if not size:
        raise AudioDecodingError(f"{name}: the file is empty.")
    is_riff = _check_riff(source, size, name)
    options = {"probesize": str(probesize)} if is_riff and probesize is not None else {}
    file = io.BytesIO(source) if isinstance(source, bytes | bytearray) else str(source)
    try:
        with av.open(file, options=options) as container:
            if not container.streams.audio:
                raise AudioDecodingError(f"{name}: there is no audio stream.")
            yield container, container.streams.audio[0], part
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise AudioDecodingError(f"{name}: it cannot be decoded as sound, or is truncated ({error}).") from error


def _decode(source) -> tuple[np.ndarray, int, np.ndarray]:
    """Channels (channels, samples), the rate, and the weight of each channel in the mix."""
    name = _name(source)
    with _open(source) as (container, stream, part):
        blocks = map(_as_float, container.decode(stream)) if part is None else _decode_part(container, stream, *part)
        blocks = list(blocks)
        rate, layout = stream.rate, [channel.name for channel in stream.layout.channels]
        declared = _declared_seconds(stream, container) if part is None else None
    channels = np.concatenate(blocks, axis=1) if blocks else np.zeros((1, 0))
    if not channels.shape[1]:
        raise AudioDecodingError(f"{name}: there are no samples.")
    check_level(channels, name)
    seconds = channels.shape[1] / rate
    if declared is not None and seconds < declared - _TRUNCATION_TOLERANCE:
        raise AudioDecodingError(f"{name}: truncated, {seconds:.2f} s of the declared {declared:.2f} s are there.")
    weights = np.array([_MONO_WEIGHTS.get(channel, 0.0) for channel in layout])
    if len(layout) <= 2 or len(layout) != len(channels) or not weights.sum():
        weights = np.ones(len(channels))
    return channels, rate, weights / weights.sum()


def _decode_part(container, stream, start: float, end: float) -> Iterator[np.ndarray]:
    """Blocks (channels, samples) of the sound between two times, in seconds from the first sample on."""
    # Some formats seek behind the time that is asked for; a second before it is decoded and thrown away.
    offset = float((stream.start_time or 0) * stream.time_base)
    if start > 1.0:
        container.seek(int((start - 1.0 + offset) / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        time = frame.time - offset
        first, last = (max(0, round((moment - time) * frame.sample_rate)) for moment in (start, end))
        if first < frame.samples and last > 0:
            yield _as_float(frame)[:, first:last]
        elif last <= 0:
            return


def _name(source) -> str:
    return "the given bytes" if isinstance(source, bytes | bytearray) else str(source)


def _declared_seconds(stream, container) -> float | None:
    """How long the header says the sound is; None where formats only estimate it from what is there."""
    if container.format.name not in ("flac", "mov,mp4,m4a,3gp,3g2,mj2", "aiff", "au"):
        return None
    return None if stream.duration is None else float(stream.duration * stream.time_base)


def _check_riff(file: bytes | str, size: int, name: str) -> bool:
    """Whether it is a WAV file, which must be whole: FFmpeg reads one to its end, whatever the header says."""
    if isinstance(file, bytes | bytearray):
        head = file[:8]
    else:
        with open(file, "rb") as opened:
            head = opened.read(8)
    declared = int.from_bytes(head[4:8], "little")
    # Writers to a pipe leave the size open, and some count a last byte of padding that they do not write.
    if head[:4] == b"RIFF" and declared not in (0, 0xFFFFFFFF) and declared + 8 > size + 1:
        raise AudioDecodingError(f"{name}: truncated, {size} bytes of the declared {declared + 8} are there.")
    return head[:4] == b"RIFF"


def _as_float(frame) -> np.ndarray:
    """(channels, samples) float64 of a decoded frame, full scale 1.0."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if np.issubdtype(samples.dtype, np.unsignedinteger):
        return (samples.astype(np.float64) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples / float(np.iinfo(samples.dtype).max + 1)
    return samples.astype(np.float64)


def _resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    try:
        import soxr
    except ImportError as error:
        raise ImportError("Resampling sound needs soxr: pip install av soxr") from error
    return soxr.resample(waveform, rate, wanted)
