"""Load audio from files, bytes and arrays as mono float32 at one rate, without normalisation."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np

from .audio_arrays import Scale, channels_of
from .audio_checks import AudioDecodingError, AudioTooLong, check_level, check_rate
from .audio_decoding import AudioBlock, decode_blocks, header_channels, header_seconds
from .audio_source import channel_of_part, file_of_part


# ITU-R BS.775-3, table 2, downmix to mono (front channels 0.7071, centre 1, surround 0.5); LFE is left out.
_MONO_WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0} | dict.fromkeys(("SL", "SR", "BL", "BR", "BC"), 0.5)
# Minimal and maximal length of a turn.
MIN_SECONDS = 0.1
MAX_TURN_SECONDS = 3600.0
# Number of samples converted at a time, and the most by which the buffer of a signal of unknown length grows.
_BLOCK, _GROWTH = 1 << 16, 1 << 24
# Energy of the difference of two channels, relative to their total energy: 0 for copies, 1 for uncorrelated channels.
_MAX_DIFFERENCE = 0.5
# A film's 5.1 or 7.1, whose channels differ and are meant to be mixed, has both of these.
_OF_FILMS = {"FC", "LFE"}


class SilentAudio(ValueError):
    """Every sample of a turn is zero."""


def load_audio(
    source, sampling_rate: int = 16_000, *, channel: int | None = None, max_seconds: float | None = None
) -> np.ndarray:
    """Decode, downmix and resample block by block; beside the result this needs a few MB, however long the file is.

    Args:
        source: a path, encoded bytes, a dict with `bytes` or `path` (as from `datasets.Audio(decode=False)`; bytes
            take precedence), a dict with `array` and `sampling_rate`, or a tuple `(array, rate)`; arrays as
            `channels_of` accepts them. `path#t=START,END` (seconds) is a part of a file, and only that part is decoded
            if the format supports seeking; `path#t=START,END&channel=N` selects one of its channels. A part that ends
            after its file is cut, with a warning.
        sampling_rate: sampling rate of the result, in Hz.
        channel: the channel to use, counted from 1 as in RTTM; None: the channel of `source`, or a mix of all, with a
            warning if two channels of an array or a whole file differ (not for a file's 5.1 or 7.1, as of a film).
        max_seconds: decoding stops with an error beyond this length, whatever the header says; None: no limit.

    Returns:
        (samples,) float32, full scale 1.0; not normalised. Channels are mixed with the ITU-R BS.775 weights of their
        layout, normalised to sum to one, so that audio that is identical in all channels keeps its level.

    Raises:
        FileNotFoundError: for a path that does not exist.
        AudioTooLong: for more than `max_seconds`.
        AudioDecodingError: for content that is empty, not audio in a supported container, not finite, above
            `audio_arrays.MAX_PEAK`, without the requested channel, or truncated (detected in WAV, FLAC, MP4, AIFF
            and AU, whose headers give the length; other formats are read as far as possible).
        ValueError: for another kind of source, an array of another shape, a rate that is none, or a `max_seconds` that
            is not a number above 0.
    """
    signal = _Signal()
    with contextlib.closing(audio_blocks(source, sampling_rate, channel=channel, max_seconds=max_seconds)) as blocks:
        for block in blocks:
            signal.extend(block)
    return signal.taken()


def audio_blocks(
    source, sampling_rate: int = 16_000, *, channel: int | None = None, max_seconds: float | None = None
) -> Generator[np.ndarray, None, None]:
    """The audio that `load_audio` returns, as pieces (samples,) float32 of any length; errors likewise."""
    check_rate(sampling_rate)
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 1):
        raise ValueError(f"channel must be an integer from 1, or None to mix all channels, got {channel!r}.")
    limit = _Limit(max_seconds)
    if isinstance(source, dict):
        if source.get("array") is not None:
            source = (source["array"], source.get("sampling_rate"))
        else:
            source = _encoded(source)
    if isinstance(source, tuple) and len(source) == 2:
        channels, rate, scale = channels_of(*source)
        check_rate(rate)
        name, blocks = "The array", _blocks_of_array(channels, rate, scale)
    elif isinstance(source, str | Path | bytes | bytearray):
        name, blocks = name_of_source(source), decode_blocks(source)
        channel = channel_of_part(source) if channel is None else channel
    else:
        raise ValueError(
            "Audio must be a path, bytes, (array, rate), or a dict with bytes, path, or array and sampling_rate; got "
            f"{type(source).__name__}."
        )
    if channel is None and file_of_part(name) == name:
        blocks = _compared(blocks, name)
    return _resampled(_mono(blocks, channel, limit, name), sampling_rate)


def channel_blocks(
    source: str | Path | bytes, channels: int, *, max_seconds: float | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """All channels of a file, which is decoded once: pieces (channels, samples) float32 of any length, and their rate.

    Args:
        source: a path, a part of a file, or encoded bytes, as for `load_audio`.
        channels: their number, as of `audio_channels`.
        max_seconds: as for `load_audio`.

    Raises:
        FileNotFoundError, ValueError: as `load_audio`; also if a piece has another number of channels.
    """
    limit, name = _Limit(max_seconds), name_of_source(source)
    for samples, rate, _ in decode_blocks(source):
        limit.check(samples, rate, name)
        if len(samples) != channels:
            raise AudioDecodingError(f"{name} has {len(samples)} channels in a piece of it, expected {channels}.")
        yield samples.astype(np.float32), rate


def audio_seconds(source) -> float:
    """Duration in seconds according to the header; the audio is decoded only if the format does not declare it.

    Args:
        source: a path, a part of a file, encoded bytes or a dict with `bytes` or `path`, as for `load_audio`.

    Raises:
        FileNotFoundError, AudioDecodingError: as `load_audio`, for what the header shows.
    """
    source = _encoded(source) if isinstance(source, dict) else source
    seconds = header_seconds(source)
    if seconds is None:
        return sum(block.channels.shape[1] / block.rate for block in decode_blocks(source))
    return seconds


def audio_channels(source) -> int:
    """Number of channels of a file according to its header; sources and errors as `audio_seconds`."""
    return header_channels(_encoded(source) if isinstance(source, dict) else source)


def channels_differ(source) -> bool:
    """Whether two channels of a file have different content, as of two speakers; all of it is decoded.

    False for the 5.1 or 7.1 of a film.
    """
    comparison = _Comparison()
    for block in decode_blocks(source):
        comparison.add(block)
    return comparison.differ


def check_waveform(
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    min_seconds: float = MIN_SECONDS,
    max_seconds: float | None = None,
    name: str = "The turn",
) -> np.ndarray:
    """Check the audio of a turn, and cut it to `max_seconds` with a warning.

    Args:
        waveform: (samples,).
        sampling_rate: sampling rate, in Hz.
        min_seconds, max_seconds: allowed length; None = no upper bound.
        name: name of the turn in messages.

    Returns:
        (samples,) float32.

    Raises:
        ValueError: for another shape, or audio that is empty, not finite, above `audio_arrays.MAX_PEAK`, silent or
            too short.
    """
    with np.errstate(over="ignore"):  # overflow gives inf, which check_level reports
        waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"A turn's waveform must be (samples,), got {waveform.shape}.")
    if not len(waveform):
        raise ValueError(f"{name} is empty: it has no samples.")
    check_level(waveform, name)
    if not waveform.any():
        raise SilentAudio(f"{name} is silent: every sample is zero.")
    seconds = len(waveform) / sampling_rate
    if seconds < min_seconds:
        raise ValueError(f"{name} lasts {seconds:.3f} s, but the minimum is {min_seconds} s.")
    if max_seconds is not None and seconds > max_seconds:
        warnings.warn(f"{name} lasts {seconds:.1f} s; its first {max_seconds:g} s are used.", stacklevel=3)
        waveform = waveform[: int(max_seconds * sampling_rate)]
    return waveform


def name_of_source(source) -> str:
    """The path of a source of `load_audio` if it has one, else "The turn"."""
    path = source.get("path") if isinstance(source, dict) else source
    return str(path) if isinstance(path, str | Path) else "The turn"


def _encoded(source: dict):
    """The bytes of a dict, else its path."""
    return source.get("bytes") or source.get("path")


def _blocks_of_array(channels: np.ndarray, rate: int, scale: Scale) -> Iterator[AudioBlock]:
    for start in range(0, channels.shape[1], _BLOCK):
        block = scale.of(channels[:, start : start + _BLOCK]).astype(np.float64)
        check_level(block, "The array")
        yield AudioBlock(block, rate, ())


def _mono(
    blocks: Iterable[AudioBlock], channel: int | None, limit: _Limit, name: str
) -> Iterator[tuple[np.ndarray, int]]:
    """(samples,) float32 and the rate of each block: one channel, or the mix of all."""
    for channels, rate, layout in blocks:
        limit.check(channels, rate, name)
        if channel is not None and channel > len(channels):
            raise AudioDecodingError(f"{name} has no channel {channel}: its channels are 1 to {len(channels)}.")
        mixed = channels[channel - 1] if channel is not None else _weights(layout, len(channels)) @ channels
        yield mixed.astype(np.float32), rate


class _Limit:
    """A maximal length of audio, checked while it is decoded.

    Raises:
        ValueError: for a `max_seconds` that is neither a number above 0 nor None.
    """

    def __init__(self, max_seconds: float | None):
        is_number = isinstance(max_seconds, int | float | np.integer | np.floating)
        if max_seconds is not None and (isinstance(max_seconds, bool) or not is_number or not max_seconds > 0):
            raise ValueError(f"max_seconds must be a number above 0, or None for no limit, got {max_seconds!r:.100}.")
        self._most, self._seconds = max_seconds, 0.0

    def check(self, channels: np.ndarray, rate: int, name: str) -> None:
        """Count the next block, (channels, samples); raise AudioTooLong beyond the limit."""
        self._seconds += channels.shape[1] / rate
        if self._most is not None and self._seconds > self._most + 1e-6:  # allow for rounding
            raise AudioTooLong(f"{name} is longer than the allowed {self._most:g} s.")


class _Comparison:
    """Whether two channels of a file differ, accumulated over its blocks."""

    def __init__(self):
        self.channels = 0
        self._products = np.zeros((0, 0))

    def add(self, block: AudioBlock) -> None:
        if not _OF_FILMS.issubset(block.layout):
            products = block.channels @ block.channels.T
            same = products.shape == self._products.shape  # a file may change its channels
            self._products = self._products + products if same else products
            self.channels = len(products)

    @property
    def differ(self) -> bool:
        energies = self._products.diagonal()
        total = energies[:, None] + energies
        return bool((total - 2 * self._products > _MAX_DIFFERENCE * total).any())


def _compared(blocks: Iterable[AudioBlock], name: str) -> Iterator[AudioBlock]:
    """Pass the blocks through, and warn at the end if two of their channels have different content."""
    comparison = _Comparison()
    for block in blocks:
        comparison.add(block)
        yield block
    if comparison.differ:
        warn_of_mixed_channels(name, comparison.channels)


def warn_of_mixed_channels(name: str, channels: int) -> None:
    """Warn that channels with different content are mixed."""
    speakers = ",".join("ABCDEFGH"[:channels]) if channels <= 8 else "A,B,..."
    count = {2: "two", 3: "three", 4: "four"}.get(channels, str(channels))
    warnings.warn(
        f"{name} has {count} channels with different audio, which are mixed: if each holds one speaker, separate them "
        f"('&channel=1' after '#t=START,END', or 'titans-mal analyze --channels {speakers}').",
        stacklevel=4,
    )


def _weights(layout: tuple[str, ...], channels: int) -> np.ndarray:
    """(channels,): the weight of each channel in the mix; they sum to one."""
    weights = np.array([_MONO_WEIGHTS.get(channel, 0.0) for channel in layout])
    if len(layout) <= 2 or len(layout) != channels or not weights.sum():
        weights = np.ones(channels)
    return weights / weights.sum()


def _resampled(blocks: Iterable[tuple[np.ndarray, int]], wanted: int) -> Generator[np.ndarray, None, None]:
    """The blocks at one rate; the result does not depend on how the audio is split into blocks."""
    resampler, current = None, None
    for samples, rate in blocks:
        if rate != current:
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            resampler, current = None if rate == wanted else _resampler(rate, wanted), rate
        yield samples if resampler is None else resampler.resample_chunk(samples)
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _resampler(rate: int, wanted: int):
    try:
        import soxr
    except ImportError as error:
        raise ImportError("Resampling audio needs soxr: pip install av soxr") from error
    return soxr.ResampleStream(rate, wanted, 1, dtype="float32")


class _Signal:
    """A growing buffer for a signal of unknown length, resized in place so that it is never held twice."""

    def __init__(self):
        self._samples, self._count = np.empty(0, np.float32), 0

    def extend(self, block: np.ndarray) -> None:
        end = self._count + len(block)
        if end > len(self._samples):
            self._samples.resize(max(end, len(self._samples) + min(_GROWTH, max(_BLOCK, self._count))), refcheck=False)
        self._samples[self._count : end] = block
        self._count = end

    def taken(self) -> np.ndarray:
        """(samples,) float32; the object must not be used afterwards."""
        self._samples.resize(self._count, refcheck=False)
        return self._samples
