"""Audio from files, bytes and arrays: mono float32 at one rate, its level kept."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np

from .audio_arrays import channels_of
from .audio_decoding import (
    AudioBlock,
    AudioDecodingError,
    AudioTooLong,
    channel_of_part,
    check_level,
    check_rate,
    decode_blocks,
    header_channels,
    header_seconds,
)


# ITU-R BS.775-3, table 2, brought down to mono (front channels 0.7071, centre 1, surround 0.5); LFE is left out.
_MONO_WEIGHTS = {"FL": 0.7071, "FR": 0.7071, "FC": 1.0} | dict.fromkeys(("SL", "SR", "BL", "BR", "BC"), 0.5)
# A turn must last that long to be heard.
MIN_SECONDS = 0.1
# A turn may last that long: who sends hours as one turn sends no turn.
MAX_TURN_SECONDS = 3600.0
# Samples that are converted at once, and by which a signal of unknown length grows.
_BLOCK, _GROWTH = 1 << 16, 1 << 24
# Two channels that have nothing in common differ by all of their energy, and copies of one by none.
_ALIKE = 0.5


def load_audio(
    source, sampling_rate: int = 16_000, *, channel: int | None = None, max_seconds: float | None = None
) -> np.ndarray:
    """Decode, down-mix and resample, block by block: beside the result it takes a few MB, however long a file is.

    Args:
        source: a path, encoded bytes, a dict with `bytes` or `path` (as `datasets.Audio(decode=False)` gives; bytes
            win), a dict with `array` and `sampling_rate`, or a tuple `(array, rate)`; arrays as `channels_of` takes
            them. `path#t=START,END` (seconds) is that part of a file, of which no more than it is decoded where the
            format lets one seek; `path#t=START,END&channel=N` takes one of its channels.
        sampling_rate: of the result, in Hz.
        channel: the only one that is taken, counted from 1 as in RTTM; None: the source's own, or all are mixed, with
            a warning where two channels of a whole file have not much in common.
        max_seconds: at which decoding stops with an error, whatever the header of a file says; None: there is no
            bound.

    Returns:
        (samples,) float32, full scale 1.0; not normalised. Channels are mixed by the ITU-R BS.775 weights of their
        layout, normalised to sum to one, so that a sound that is alike in all channels keeps its level.

    Raises:
        FileNotFoundError: for a path that does not exist.
        AudioTooLong: for more than `max_seconds`.
        AudioDecodingError: for content that is empty, not audio of a known container, not finite, above
            `audio_decoding.MAX_PEAK`, without the channel, or truncated, where the header of its format gives the
            length (WAV, FLAC, MP4, AIFF, AU); what is left of others is read.
        ValueError: for another kind of source, an array of another shape, or a rate that is none.
    """
    signal = _Signal()
    with contextlib.closing(audio_blocks(source, sampling_rate, channel=channel, max_seconds=max_seconds)) as blocks:
        for block in blocks:
            signal.extend(block)
    return signal.taken()


def audio_blocks(
    source, sampling_rate: int = 16_000, *, channel: int | None = None, max_seconds: float | None = None
) -> Generator[np.ndarray, None, None]:
    """What `load_audio` gives, in pieces (samples,) float32 of any length, as they are decoded; errors likewise."""
    check_rate(sampling_rate)
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 1):
        raise ValueError(f"A channel is a number from 1 on, or None for all of them mixed, got {channel!r}.")
    if isinstance(source, dict):
        if source.get("array") is not None:
            source = (source["array"], source.get("sampling_rate"))
        else:
            source = _encoded(source)
    if isinstance(source, tuple) and len(source) == 2:
        channels, rate = channels_of(*source)
        check_rate(rate)
        name, blocks = "The array", _blocks_of_array(channels, rate)
    elif isinstance(source, str | Path | bytes | bytearray):
        name, blocks = name_of_sound(source), decode_blocks(source)
        channel = channel_of_part(source) if channel is None else channel
        if channel is None and "#t=" not in name:
            blocks = _compared(blocks, name)
    else:
        raise ValueError(
            "A sound is a path, bytes, (array, rate), or a dict with bytes, path, or array and sampling_rate; got "
            f"{type(source).__name__}."
        )
    return _resampled(_mono(blocks, channel, max_seconds, name), sampling_rate)


def audio_seconds(source) -> float:
    """How long a sound is, by its header; it is decoded only where its format does not tell.

    Args:
        source: a path, a part of a file, encoded bytes or a dict with `bytes` or `path`, as `load_audio` takes.

    Raises:
        FileNotFoundError, AudioDecodingError: as `load_audio`, for what the header shows.
    """
    source = _encoded(source) if isinstance(source, dict) else source
    seconds = header_seconds(source)
    if seconds is None:
        return sum(block.channels.shape[1] / block.rate for block in decode_blocks(source))
    return seconds


def audio_channels(source) -> int:
    """How many channels a file has, by its header; sources and errors as of `audio_seconds`."""
    return header_channels(_encoded(source) if isinstance(source, dict) else source)


def channels_differ(source) -> bool:
    """Whether the audio has two channels that have not much in common, as of two talkers; all of it is decoded."""
    comparison = _Comparison()
    for block in decode_blocks(source):
        comparison.add(block.channels)
    return comparison.differ


def part_of_file(path: str | Path, start: float, end: float, *, channel: int | None = None) -> str:
    """What `load_audio` takes for the audio of a file between two times, in seconds.

    Args:
        channel: the only one that is taken, counted from 1; None: all are mixed.

    Raises:
        ValueError: if the part does not start at 0 s or later, or does not end after that.
    """
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"A part of a file starts at 0 s or later and ends after that, got {start} to {end} s.")
    return f"{path}#t={start:.6f},{end:.6f}" + ("" if channel is None else f"&channel={channel}")


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


def name_of_sound(source) -> str:
    """The path of a source of `load_audio`, where it has one; "The turn" otherwise."""
    path = source.get("path") if isinstance(source, dict) else source
    return str(path) if isinstance(path, str | Path) else "The turn"


def _encoded(source: dict):
    """The bytes of a dict, or its path."""
    return source.get("bytes") or source.get("path")


def _blocks_of_array(channels: np.ndarray, rate: int) -> Iterator[AudioBlock]:
    for start in range(0, channels.shape[1], _BLOCK):
        block = channels[:, start : start + _BLOCK].astype(np.float64)
        check_level(block, "The array")
        yield AudioBlock(block, rate, ())


def _mono(
    blocks: Iterable[AudioBlock], channel: int | None, max_seconds: float | None, name: str
) -> Iterator[tuple[np.ndarray, int]]:
    """(samples,) float32 and the rate of each block: one channel, or the mix of all."""
    seconds = 0.0
    for channels, rate, layout in blocks:
        seconds += channels.shape[1] / rate
        if max_seconds is not None and seconds > max_seconds + 1e-6:  # sums of fractions round
            raise AudioTooLong(f"{name} lasts longer than the {max_seconds:g} s that are taken.")
        if channel is not None and channel > len(channels):
            raise AudioDecodingError(f"{name} has no channel {channel}: it has {len(channels)}, counted from 1.")
        mixed = channels[channel - 1] if channel is not None else _weights(layout, len(channels)) @ channels
        yield mixed.astype(np.float32), rate


class _Comparison:
    """Whether two channels have much in common, over all blocks of a file."""

    def __init__(self):
        self._between = self._total = 0.0

    def add(self, channels: np.ndarray) -> None:
        if len(channels) == 2:
            self._between += float(np.square(channels[0] - channels[1]).sum())
            self._total += float(np.square(channels).sum())

    @property
    def differ(self) -> bool:
        return self._between > _ALIKE * self._total


def _compared(blocks: Iterable[AudioBlock], name: str) -> Iterator[AudioBlock]:
    """The blocks as they are; at their end a warning where they hold two channels that have not much in common."""
    comparison = _Comparison()
    for block in blocks:
        comparison.add(block.channels)
        yield block
    if comparison.differ:
        warn_of_mixed_channels(name)


def warn_of_mixed_channels(name: str) -> None:
    """Say that two channels with different content are mixed."""
    warnings.warn(
        f"{name} has two channels with different audio, which are mixed: where a talker is on each, take them apart "
        "('&channel=1' behind '#t=START,END', or 'titans-mal analyze --channels A,B').",
        stacklevel=4,
    )


def _weights(layout: tuple[str, ...], channels: int) -> np.ndarray:
    """What each channel counts in the mix, (channels,); together one."""
    weights = np.array([_MONO_WEIGHTS.get(channel, 0.0) for channel in layout])
    if len(layout) <= 2 or len(layout) != channels or not weights.sum():
        weights = np.ones(channels)
    return weights / weights.sum()


def _resampled(blocks: Iterable[tuple[np.ndarray, int]], wanted: int) -> Iterator[np.ndarray]:
    """The blocks at one rate; the same to the bit however the audio is cut into blocks."""
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
        raise ImportError("Resampling sound needs soxr: pip install av soxr") from error
    return soxr.ResampleStream(rate, wanted, 1, dtype="float32")


class _Signal:
    """Samples whose number is not known before: they grow in place, and never lie there twice."""

    def __init__(self):
        self._samples, self._count = np.empty(0, np.float32), 0

    def extend(self, block: np.ndarray) -> None:
        end = self._count + len(block)
        if end > len(self._samples):
            self._samples.resize(max(end, len(self._samples) + min(_GROWTH, max(_BLOCK, self._count))), refcheck=False)
        self._samples[self._count : end] = block
        self._count = end

    def taken(self) -> np.ndarray:
        """(samples,) float32; the object is not to be used any more."""
        self._samples.resize(self._count, refcheck=False)
        return self._samples
