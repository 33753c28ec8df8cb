"""Decode audio in blocks, so that memory and time stay bounded whatever a file's header claims."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .audio_checks import AudioDecodingError, check_format, check_level
from .audio_headers import HEAD_BYTES, check_pointer, check_wav_size, is_chained, is_plain_wav, is_riff
from .audio_source import open_file, source_in_messages, split_part


# Containers (FFmpeg's names) that hold audio and refer to no other files: no playlists, session descriptions or lists
# of files.
CONTAINERS = ("wav", "w64", "flac", "ogg", "mp3", "mov", "mp4", "matroska", "webm", "aiff", "au", "aac", "amr", "caf",
              "wv", "avi", "asf", "nistsphere")  # fmt: skip
# Seconds allowed for opening a file, and for decoding each next piece of audio.
TIMEOUT = 20.0
# Number of samples (over all channels) that are converted at a time.
_BLOCK = 1 << 18
# Number of samples up to which frames are joined: about a second of speech, of which WAV has some twenty frames.
_JOINED = 1 << 14
# Encoders pad the last frame and containers round times, so a smaller difference is not a truncation.
_TRUNCATION_TOLERANCE = 0.05
# Seconds by which a part of a file may end after the file without a warning.
_PART_TOLERANCE = 0.1
_PROBE_BYTES = 4096


class AudioBlock(NamedTuple):
    """A piece of a file's audio.

    Attributes:
        channels: (channels, samples) float64, full scale 1.0.
        rate: sampling rate in Hz; a file may change it, though this is rare.
        layout: FFmpeg's name of each channel.
    """

    channels: np.ndarray
    rate: int
    layout: tuple[str, ...]


def decode_blocks(source: str | Path | bytes | bytearray) -> Iterator[AudioBlock]:
    """Decode a file, or the given part of it, piece by piece.

    Args:
        source: a path, `path#t=START,END` in seconds, or encoded bytes; a `&channel=N` suffix is ignored: all channels
            are decoded.

    Raises:
        FileNotFoundError: for a path that does not exist.
        AudioDecodingError: for content that is empty, not audio in one of the `CONTAINERS`, not finite, above
            `audio_arrays.MAX_PEAK`, with too many channels, at an unsupported rate, or truncated (detected where the
            format's header gives the length).
    """
    name, seconds = source_in_messages(source), 0.0
    with _open(source) as (container, stream, part, clock):
        if len(container.streams.audio) > 1:
            warnings.warn(
                f"{name} has {len(container.streams.audio)} audio tracks, of which only the first is used: if "
                "they hold different speakers, save each as a file.",
                stacklevel=5,
            )
        decoded = container.decode(stream)
        frames = (
            ((frame, slice(None)) for frame in decoded) if part is None else _frames_of_part(container, stream, *part)
        )
        for samples, rate, layout in _joined(frames, name, clock):
            for channels in _as_float(samples):
                check_level(channels, name)
                seconds += channels.shape[1] / rate
                yield AudioBlock(channels, rate, layout)
        declared = _declared_seconds(stream, container) if part is None else None
    if not seconds:
        raise AudioDecodingError(f"{name}: the file holds no audio samples.")
    if part is not None and seconds < part[1] - part[0] - _PART_TOLERANCE:
        warnings.warn(
            f"{name}: the file ends before this part of it, of which {seconds:.2f} s are used: are its times in "
            "seconds?",
            stacklevel=5,
        )
    if declared is not None and seconds < declared - _TRUNCATION_TOLERANCE:
        raise AudioDecodingError(f"{name}: truncated, it holds {seconds:.2f} s of the declared {declared:.2f} s.")


def header_seconds(source: str | Path | bytes | bytearray) -> float | None:
    """Duration in seconds according to the header, which may be wrong; None if the file does not declare all of it.

    Raises:
        FileNotFoundError, AudioDecodingError: as `decode_blocks`, for what the header shows.
    """
    with _open(source, header_only=True) as (container, stream, part, _):
        if stream.duration is None or (container.format.name == "ogg" and _is_chained(source)):
            return None
        seconds = float(stream.duration * stream.time_base)
    return seconds if part is None else max(0.0, min(part[1], seconds) - part[0])


def _is_chained(source: str | Path | bytes | bytearray) -> bool:
    whole, _ = split_part(source)
    with open_file(whole) as file:
        return is_chained(file)


def header_channels(source: str | Path | bytes | bytearray) -> int:
    """Number of channels according to the header; errors as `header_seconds`."""
    with _open(source, header_only=True) as (_, stream, _, _):
        return stream.channels


class _Clock:
    """The time limit of a decoding step."""

    def __init__(self, name: str):
        self._name = name
        self.restart()

    def restart(self) -> None:
        self._ends_at = time.monotonic() + TIMEOUT

    def check(self) -> None:
        if time.monotonic() > self._ends_at:
            raise AudioDecodingError(f"{self._name}: decoding produced no audio within {TIMEOUT:g} s.")


class _Reader:
    """The file object that FFmpeg reads from, so that it opens no file itself and reading cannot run forever."""

    def __init__(self, file, clock: _Clock, name: str):
        self._file, self._clock, self.name = file, clock, name
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self._clock.check()
        return self._file.read(size)


def _reject_other_files(url: str, flags: int, options: dict):
    raise AudioDecodingError("The file refers to another file; such references are not followed.")


@contextlib.contextmanager
def _open(source, *, header_only: bool = False) -> Iterator[tuple]:
    """The container, its first audio stream, the requested part (start, end) in seconds (None = all), and a clock.

    FFmpeg probes little audio of plain WAV files, whose header is enough, and of all WAV files with `header_only`:
    probing the whole of a short file takes longer than decoding it.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("Decoding audio needs PyAV: pip install av soxr") from error
    name, clock = source_in_messages(source), _Clock(source_in_messages(source))
    source, part = split_part(source)
    with open_file(source) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise AudioDecodingError(f"{name}: the file is empty.")
        file.seek(0)
        head = file.read(HEAD_BYTES)
        check_pointer(head, name)
        if is_riff(head):
            check_wav_size(head, size, name)
        file.seek(0)
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "", "codec_whitelist": _codecs()}
        options |= {"probesize": str(_PROBE_BYTES)} if is_riff(head) and (header_only or is_plain_wav(head)) else {}
        reader = _Reader(file, clock, "" if isinstance(source, bytes | bytearray) else str(source))
        try:
            with av.open(
                reader, options=options, metadata_errors="replace", timeout=TIMEOUT, io_open=_reject_other_files
            ) as container:
                if not container.streams.audio:
                    raise AudioDecodingError(f"{name}: the file has no audio stream.")
                stream = container.streams.audio[0]
                if stream.codec_context is None:
                    raise AudioDecodingError(f"{name}: the codec of its audio is unknown.")
                check_format(stream.rate or 0, stream.channels or 0, name)
                yield container, stream, part, clock
        except AudioDecodingError:
            raise
        except (av.FFmpegError, ValueError, TypeError, ArithmeticError, MemoryError, NotImplementedError) as error:
            raise AudioDecodingError(
                f"{name}: it cannot be decoded as audio, or is truncated ({error}). Supported containers: "
                f"{', '.join(CONTAINERS)}."
            ) from error


@functools.cache
def _codecs() -> str:
    """Names of all audio decoders; without a list, FFmpeg also decodes pictures, of any size, to describe them."""
    try:
        from av.codec import Codec, codecs_available
    except ImportError as error:
        raise ImportError("Decoding audio needs PyAV: pip install av soxr") from error

    names = []
    for name in codecs_available:
        with contextlib.suppress(ValueError):  # of an encoder alone
            if Codec(name, "r").type == "audio":
                names.append(name)
    return ",".join(sorted(names))


def _frames_of_part(container, stream, start: float, end: float) -> Iterator[tuple]:
    """Frames that overlap the part between two times, in seconds from the first sample, and a slice of each frame."""
    # Some formats seek past the requested time; decode from one second before it and skip those frames.
    offset = float((stream.start_time or 0) * stream.time_base)
    if start > 1.0:
        container.seek(int((start - 1.0 + offset) / stream.time_base), stream=stream)
    for frame in container.decode(stream):
        if frame.time is None:
            raise AudioDecodingError("A part of a file cannot be located: its frames have no timestamps.")
        begins = frame.time - offset
        first, last = (max(0, round((moment - begins) * frame.sample_rate)) for moment in (start, end))
        if first < frame.samples and last > 0:
            yield frame, slice(first, last)
        elif last <= 0:
            return


def _declared_seconds(stream, container) -> float | None:
    """Duration by the header, in seconds; None for formats whose value is only an estimate from the file's size."""
    if container.format.name not in ("flac", "mov,mp4,m4a,3gp,3g2,mj2", "aiff", "au"):
        return None
    return None if stream.duration is None else float(stream.duration * stream.time_base)


def _joined(frames, name: str, clock: _Clock) -> Iterator[tuple[np.ndarray, int, tuple[str, ...]]]:
    """Samples (channels, samples), rate and layout of successive frames; short ones are joined, which saves time."""
    kept: list[np.ndarray] = []
    count = 0
    form: tuple[int, tuple[str, ...], np.dtype] | None = None
    for frame, window in frames:
        layout = tuple(channel.name for channel in frame.layout.channels)
        check_format(frame.sample_rate, len(layout), name)
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, len(layout)).T
        now = frame.sample_rate, layout, samples.dtype
        if form is not None and (now != form or count >= _JOINED):
            yield np.concatenate(kept, axis=1), *form[:2]
            kept, count = [], 0
        form = now
        kept.append(samples[:, window])
        count += kept[-1].size
        clock.restart()
    if form is not None:
        yield np.concatenate(kept, axis=1), *form[:2]


def _as_float(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Yield decoded samples, (channels, samples), as float64 of full scale 1.0, a block at a time."""
    length = max(1, _BLOCK // len(samples))
    for start in range(0, samples.shape[1], length):
        yield _pcm_to_float(samples[:, start : start + length])


def _pcm_to_float(samples: np.ndarray) -> np.ndarray:
    """Convert a decoder's samples to float64: integers as PCM of their type, full scale 1.0; floats unchanged."""
    if samples.dtype.kind == "u":
        zero = (int(np.iinfo(samples.dtype).max) + 1) / 2
        return (samples.astype(np.float64) - zero) / zero
    if samples.dtype.kind == "i":
        return samples.astype(np.float64) / (int(np.iinfo(samples.dtype).max) + 1)
    return samples.astype(np.float64)
