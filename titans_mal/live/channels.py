"""Calls with one speaker per channel: each channel is split at its own pauses, without crosstalk from the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.audio import audio_channels, channel_blocks
from ..data.segment_files import Segment
from .stream_resampler import StreamResampler
from .turn_detector import SpokenTurn, TurnDetector, checked_piece
from .turns import RATE


# Samples (at 16 kHz) of a window whose level is measured, and the number of windows before and after it that count.
_WINDOW, _EARLIER, _LATER = 512, 6, 3
CROSSTALK_DB = 15.0


def channel_segments(
    recording: str | Path, speakers: Sequence[str], *, crosstalk_db: float = CROSSTALK_DB
) -> list[Segment]:
    """The turns of a recording with one speaker per channel, in the order of their ends, for `load_recording`.

    Args:
        recording: the audio file.
        speakers: the speaker on each channel, all different.
        crosstalk_db: audio that is this many dB weaker than another channel at the same time is treated as crosstalk
            from that channel, and ignored.

    Raises:
        FileNotFoundError, ValueError: as `load_audio`; also if the number of speakers differs from that of channels, a
            speaker occurs twice, or the recording has no speech.
    """
    # Only the times are kept: all the turns of a long recording may not fit into memory.
    segments = [
        Segment(turn.start, turn.end, speakers[channel], channel=channel + 1)
        for channel, turn in _found_turns(recording, speakers, crosstalk_db, None)
    ]
    if not segments:
        raise ValueError(f"{recording}: no speech was found on any channel.")
    return sorted(segments, key=lambda segment: (segment.end, segment.start))


def channel_turns(
    recording: str | Path | bytes,
    speakers: Sequence[str],
    *,
    crosstalk_db: float = CROSSTALK_DB,
    max_seconds: float | None = None,
) -> list[tuple[int, SpokenTurn]]:
    """The turns on each channel of an audio file: (channel from 0, turn), in the order of their ends.

    Args:
        recording: the audio file, or its bytes.
        speakers, crosstalk_db: as for `channel_segments`.
        max_seconds: maximal length of the file, measured while decoding.

    Raises:
        AudioTooLong: for a longer file.
        FileNotFoundError, ValueError: as `channel_segments`; a file without speech has no turns.
    """
    turns = _found_turns(recording, speakers, crosstalk_db, max_seconds)
    return sorted(turns, key=lambda found: (found[1].end, found[1].start))


def _found_turns(
    recording: str | Path | bytes, speakers: Sequence[str], crosstalk_db: float, max_seconds: float | None
) -> Iterator[tuple[int, SpokenTurn]]:
    """The turns that `channel_turns` sorts, as they are found; arguments and errors likewise."""
    there = audio_channels(recording)
    if len(speakers) != there or len({*speakers}) != there or not all(map(str.strip, speakers)):
        name = "The audio" if isinstance(recording, bytes) else str(recording)
        raise ValueError(f"{name} has {there} channels: give a different speaker for each, got {[*speakers]}.")
    detector = ChannelDetector(there, crosstalk_db)
    for samples, rate in channel_blocks(recording, there, max_seconds=max_seconds):
        yield from detector.feed(samples, rate)
    yield from detector.flush()


class ChannelDetector:
    """Splits each channel of a stream at its own pauses, without crosstalk from the others.

    Args:
        channels: their number.
        crosstalk_db: as for `CrosstalkGate`.
        detection: options of `TurnDetector`.

    Raises:
        ValueError: as `CrosstalkGate` and `TurnDetector`.
    """

    def __init__(self, channels: int, crosstalk_db: float = CROSSTALK_DB, **detection):
        self._resampler, self._gate = StreamResampler(channels), CrosstalkGate(channels, crosstalk_db)
        self._detectors = [TurnDetector(**detection) for _ in range(channels)]

    def feed(self, chunk: np.ndarray, sampling_rate: int) -> list[tuple[int, SpokenTurn]]:
        """Process the next piece of the stream.

        Args:
            chunk: (channels, samples) of floats within [-1, 1], or of 16-bit integers.
            sampling_rate: sampling rate in Hz; may change between pieces.

        Returns:
            The turns that ended, as (channel from 0, turn), in the order of their ends.

        Raises:
            ValueError: as `TurnDetector.feed`; the piece is then ignored.
        """
        samples = np.stack([checked_piece(row, sampling_rate) for row in chunk])
        return self._detect(self._gate.feed(self._resampler.feed(samples, sampling_rate)), is_last=False)

    def flush(self) -> list[tuple[int, SpokenTurn]]:
        """End the stream, and with it all open turns."""
        last = self._gate.feed(self._resampler.flush())
        return self._detect(np.concatenate([last, self._gate.flush()], axis=1), is_last=True)

    def _detect(self, samples: np.ndarray, *, is_last: bool) -> list[tuple[int, SpokenTurn]]:
        turns = []
        for channel, (detector, piece) in enumerate(zip(self._detectors, samples)):
            found = detector.feed(piece, RATE) + (detector.flush() if is_last else [])
            turns += [(channel, turn) for turn in found]
        return sorted(turns, key=lambda found: (found[1].end, found[1].start))


class CrosstalkGate:
    """Mutes a channel while another one is much louder.

    Levels are compared over the loudest of several windows, before and after the present one: speech is not muted
    between its own syllables, nor at its soft start, while another speaker talks.

    Args:
        channels: their number.
        crosstalk_db: how much weaker a channel must be, in dB.

    Raises:
        ValueError: for a level that is not above 0.
    """

    def __init__(self, channels: int, crosstalk_db: float = CROSSTALK_DB):
        if not crosstalk_db > 0:
            raise ValueError(f"crosstalk_db must be above 0, in dB, got {crosstalk_db!r}.")
        self._ratio = 10 ** (-crosstalk_db / 10)
        # Samples that are not returned yet, and the levels of windows: earlier ones, then those that wait.
        self._samples = np.zeros((channels, 0), np.float32)
        self._levels = np.zeros((channels, _EARLIER))

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """The next samples, (channels, samples) at 16 kHz; the last 0.13 s at most are returned by later calls."""
        samples = np.concatenate([self._samples, samples], axis=1)
        measured = self._levels.shape[1] - _EARLIER
        windows = samples[:, measured * _WINDOW :]
        windows = windows[:, : windows.shape[1] // _WINDOW * _WINDOW].reshape(len(samples), -1, _WINDOW)
        levels = np.concatenate([self._levels, np.square(windows, dtype=np.float64).mean(axis=2)], axis=1)
        return self._release(samples, levels, max(levels.shape[1] - _EARLIER - _LATER, 0))

    def flush(self) -> np.ndarray:
        """The remaining samples at the end; less than a window is unchanged."""
        levels = np.concatenate([self._levels, np.zeros((len(self._levels), _LATER))], axis=1)
        gated = self._release(self._samples, levels, self._levels.shape[1] - _EARLIER)
        rest, self._samples = self._samples, self._samples[:, :0]
        self._levels = np.zeros((len(rest), _EARLIER))
        return np.concatenate([gated, rest], axis=1)

    def _release(self, samples: np.ndarray, levels: np.ndarray, count: int) -> np.ndarray:
        """The first `count` windows, gated; keeps the others and their levels."""
        self._samples, self._levels = samples[:, count * _WINDOW :], levels[:, count:]
        if not count:
            return samples[:, :0]
        used = levels[:, : _EARLIER + count + _LATER]
        others = _loudest(used, _EARLIER + 1 + _LATER)
        # Echoes are delayed, so levels of other channels are held longer than a channel's own.
        own = _loudest(used[:, _EARLIER - _LATER :], 2 * _LATER + 1)
        loudest = np.stack([np.delete(others, number, axis=0).max(axis=0, initial=0.0) for number in range(len(own))])
        windows = samples[:, : count * _WINDOW].reshape(len(samples), count, _WINDOW)
        return (windows * (own >= loudest * self._ratio)[:, :, None]).reshape(len(samples), -1)


def _loudest(levels: np.ndarray, windows: int) -> np.ndarray:
    """(channels, levels - windows + 1): the maximum of so many levels each."""
    return np.lib.stride_tricks.sliding_window_view(levels, windows, axis=1).max(axis=2)
