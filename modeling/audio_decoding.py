"""Decoding of audio in blocks: whatever a file claims, no more of it is read, decoded or kept than was allowed."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .audio_arrays import MAX_PEAK


# Containers that hold audio and lead to nothing outside of themselves, by FFmpeg's names: no playlists, no session
# descriptions, no lists of other files.
CONTAINERS = ("wav", "w64", "flac", "ogg", "mp3", "mov", "mp4", "matroska", "webm", "aiff", "au", "aac", "amr", "caf",
              "wv", "avi", "asf", "nistsphere")  # fmt: skip
# Hz; what is slower is no speech, and resamplers take long at rates that no device has.
MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_CHANNELS = 64
# Of one second of a file, all channels together: eight channels at 192 kHz.
_MAX_VALUES_PER_SECOND = 8 * 192_000
# Seconds in which a file must be opened, and each next piece of its audio be decoded.
TIMEOUT = 20.0
# Values of all channels that are converted at once.
_BLOCK = 1 << 18
# Encoders pad the last frame and containers round their times; less than this is no truncation.
_TRUNCATION_TOLERANCE = 0.05
_PROBE_BYTES = 4096
# A part of a file, as in "call.wav#t=12.5,17" (W3C Media Fragments 1.0, 4.2.1, in seconds), or of one of its channels,
# as in "call.wav#t=12.5,17&channel=2".
_FRAGMENT = re.compile(
    r"(?P<path>.+)#t=(?P<start>\d+(\.\d+)?),(?P<end>\d+(\.\d+)?)(&channel=(?P<channel>[1-9]\d*))?", re.DOTALL
)


class AudioDecodingError(ValueError):
    """The content of a file or of bytes is no usable sound."""


class AudioTooLong(AudioDecodingError):
    """There is more audio than was allowed."""


class AudioBlock(NamedTuple):
    """A piece of a file's audio.

    Attributes:
        channels: (channels, samples) float64, full scale 1.0.
        rate: in Hz; files that change it are rare, and may.
        layout: FFmpeg's name of each channel.
    """

    channels: np.ndarray
    rate: int
    layout: tuple[str, ...]


def decode_blocks(source: str | Path | bytes | bytearray) -> Iterator[AudioBlock]:
    """The audio of a file, or of the part of it that is meant, piece by piece.

    Args:
        source: a path, `path#t=START,END` in seconds, or encoded bytes; of `&channel=N` behind it all channels.

    Raises:
        FileNotFoundError: for a path that does not exist.
        AudioDecodingError: for content that is empty, no audio of one of the `CONTAINERS`, not finite, above
            `MAX_PEAK`, of too many channels or at a rate that is none, or truncated, where the header of its format
            gives the length.
    """
    name, seconds = _name(source), 0.0
    with _open(source) as (container, stream, part, clock):
        frames = container.decode(stream) if part is None else _frames_of_part(container, stream, *part)
        for frame in frames:
            frame, window = frame if part is not None else (frame, slice(None))
            layout = tuple(channel.name for channel in frame.layout.channels)
            check_format(frame.sample_rate, len(layout), name)
            for channels in _as_float(frame, window):
                check_level(channels, name)
                seconds += channels.shape[1] / frame.sample_rate
                yield AudioBlock(channels, frame.sample_rate, layout)
            clock.restart()
        declared = _declared_seconds(stream, container) if part is None else None
    if not seconds:
        raise AudioDecodingError(f"{name}: there are no samples.")
    if declared is not None and seconds < declared - _TRUNCATION_TOLERANCE:
        raise AudioDecodingError(f"{name}: truncated, {seconds:.2f} s of the declared {declared:.2f} s are there.")


def header_seconds(source: str | Path | bytes | bytearray) -> float | None:
    """How long the audio is by its header, which may be wrong; None where the format does not tell.

    Raises:
        FileNotFoundError, AudioDecodingError: as `decode_blocks`, for what the header shows.
    """
    with _open(source, probesize=_PROBE_BYTES) as (_, stream, part, _):
        if stream.duration is None:
            return None
        seconds = float(stream.duration * stream.time_base)
    return seconds if part is None else max(0.0, min(part[1], seconds) - part[0])


def header_channels(source: str | Path | bytes | bytearray) -> int:
    """How many channels the audio has by its header; errors as of `header_seconds`."""
    with _open(source, probesize=_PROBE_BYTES) as (_, stream, _, _):
        return stream.channels


def channel_of_part(source) -> int | None:
    """The channel that `path#t=START,END&channel=N` means, counted from 1; None for other sources."""
    if not isinstance(source, str | Path) or _is_file(source):
        return None
    fragment = _FRAGMENT.fullmatch(str(source))
    return None if fragment is None or fragment["channel"] is None else int(fragment["channel"])


def check_rate(rate: int, name: str = "A sampling rate") -> None:
    """Refuse what is no sampling rate.

    Raises:
        ValueError: for what is not a whole number of Hz from `MIN_RATE` to `MAX_RATE`.
    """
    is_whole = isinstance(rate, int | np.integer) and not isinstance(rate, bool)
    if not is_whole or not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"{name} is a whole number of Hz from {MIN_RATE:,} to {MAX_RATE:,}, got {_shown(rate)}.")


def check_format(rate: int, channels: int, name: str) -> None:
    """Refuse audio of more numbers a second than any recording has.

    Raises:
        AudioDecodingError: with what was found.
    """
    is_allowed = MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS
    if not is_allowed or rate * channels > _MAX_VALUES_PER_SECOND:
        raise AudioDecodingError(
            f"{name}: {channels} channels at {rate} Hz. Taken are 1 to {MAX_CHANNELS} channels at {MIN_RATE:,} to "
            f"{MAX_RATE:,} Hz, together up to {_MAX_VALUES_PER_SECOND:,} samples a second."
        )


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


class _Clock:
    """The time that is left for the next step of decoding."""

    def __init__(self, name: str):
        self._name = name
        self.restart()

    def restart(self) -> None:
        self._ends_at = time.monotonic() + TIMEOUT

    def check(self) -> None:
        if time.monotonic() > self._ends_at:
            raise AudioDecodingError(f"{self._name}: no audio came out of it within {TIMEOUT:g} s.")


class _Reader:
    """What FFmpeg reads a file through, so that it opens nothing by itself and does not read for ever."""

    def __init__(self, file, clock: _Clock, name: str):
        self._file, self._clock, self.name = file, clock, name
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self._clock.check()
        return self._file.read(size)


def _refuse_to_open(url: str, flags: int, options: dict):
    raise AudioDecodingError("The file refers to another one, which is not opened.")


@contextlib.contextmanager
def _open(source, *, probesize: int | None = None) -> Iterator[tuple]:
    """The container, its first audio stream, the part that is meant (start, end) in seconds (None = all), and a clock.

    Of a WAV file, whose header tells it all, FFmpeg looks at no more than `probesize` bytes of audio.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Decoding sound needs PyAV: pip install av soxr") from error
    name, clock = _name(source), _Clock(_name(source))
    source, part = _split_part(source)
    with io.BytesIO(source) if isinstance(source, bytes | bytearray) else open(source, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise AudioDecodingError(f"{name}: the file is empty.")
        file.seek(0)
        is_riff = _check_riff(file.read(8), size, name)
        file.seek(0)
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": ""}
        options |= {"probesize": str(probesize)} if is_riff and probesize is not None else {}
        reader = _Reader(file, clock, "" if isinstance(source, bytes | bytearray) else str(source))
        try:
            with av.open(
                reader, options=options, metadata_errors="replace", timeout=TIMEOUT, io_open=_refuse_to_open
            ) as container:
                if not container.streams.audio:
                    raise AudioDecodingError(f"{name}: there is no audio stream.")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    raise AudioDecodingError(f"{name}: its audio is in a codec that is not known.")
                check_format(stream.rate or 0, stream.channels or 0, name)
                yield container, stream, part, clock
        except AudioDecodingError:
            raise
        except (av.FFmpegError, ValueError, TypeError, ArithmeticError, MemoryError, NotImplementedError) as error:
            raise AudioDecodingError(
                f"{name}: it cannot be decoded as sound, or is truncated ({error}). Files are one of: "
                f"{', '.join(CONTAINERS)}."
            ) from error


def _split_part(source) -> tuple:
    """The path or bytes, and the part of a path that is meant."""
    if isinstance(source, bytes | bytearray):
        return source, None
    if _is_file(source):
        return source, None
    fragment = _FRAGMENT.fullmatch(str(source))
    if fragment is None or not _is_file(fragment["path"]):
        raise FileNotFoundError(f"No such sound file: {_shown(str(source))}")
    return fragment["path"], (float(fragment["start"]), float(fragment["end"]))


def _is_file(path: str | Path) -> bool:
    """Whether it is a regular file; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _frames_of_part(container, stream, start: float, end: float) -> Iterator[tuple]:
    """Frames that have audio between two times, in seconds from the first sample on; and which samples of each."""
    # Some formats seek behind the time that is asked for; a second before it is decoded and thrown away.
    offset = float((stream.start_time or 0) * stream.time_base)
    if start > 1.0:
        container.seek(int((start - 1.0 + offset) / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is None:
            raise AudioDecodingError("A part of a file without times cannot be found.")
        time = frame.time - offset
        first, last = (max(0, round((moment - time) * frame.sample_rate)) for moment in (start, end))
        if first < frame.samples and last > 0:
            yield frame, slice(first, last)
        elif last <= 0:
            return


def _name(source) -> str:
    return "the given bytes" if isinstance(source, bytes | bytearray) else _shown(str(source))


def _shown(value, most: int = 200) -> str:
    """A value as an error shows it: what comes from outside may be of any length."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def _declared_seconds(stream, container) -> float | None:
    """How long the header says the sound is; None where formats only estimate it from what is there."""
    if container.format.name not in ("flac", "mov,mp4,m4a,3gp,3g2,mj2", "aiff", "au"):
        return None
    return None if stream.duration is None else float(stream.duration * stream.time_base)


def _check_riff(head: bytes, size: int, name: str) -> bool:
    """Whether it is a WAV file, which must be whole: FFmpeg reads one to its end, whatever the header says."""
    declared = int.from_bytes(head[4:8], "little")
    # Writers to a pipe leave the size open, and some count a last byte of padding that they do not write.
    if head[:4] == b"RIFF" and declared not in (0, 0xFFFFFFFF) and declared + 8 > size + 1:
        raise AudioDecodingError(f"{name}: truncated, {size} bytes of the declared {declared + 8} are there.")
    return head[:4] == b"RIFF"


def _as_float(frame, window: slice) -> Iterator[np.ndarray]:
    """(channels, samples) float64 of the samples of a decoded frame, full scale 1.0, a few at a time."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    samples = samples[:, window]
    length = max(1, _BLOCK // len(samples))
    for start in range(0, samples.shape[1], length):
        yield _pcm_to_float(samples[:, start : start + length])


def _pcm_to_float(samples: np.ndarray) -> np.ndarray:
    """Integers of a decoder, which are PCM of their type, with full scale 1.0, or floats as they are; float64."""
    if samples.dtype.kind == "u":
        zero = (int(np.iinfo(samples.dtype).max) + 1) / 2
        return (samples.astype(np.float64) - zero) / zero
    if samples.dtype.kind == "i":
        return samples.astype(np.float64) / (int(np.iinfo(samples.dtype).max) + 1)
    return samples.astype(np.float64)
