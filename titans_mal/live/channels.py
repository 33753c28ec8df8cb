"""A call with a talker on each channel: each cut at its own pauses, without what leaks over from the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.audio import audio_blocks, audio_channels
from ..data.segment_files import Segment
from .turn_detector import SpokenTurn, TurnDetector
from .turns import RATE


# Samples of 16 kHz whose level is compared, and how many such pieces a talker's level is held for: echoes come late.
_WINDOW, _HELD = 512, 4
CROSSTALK_DB = 15.0


def channel_segments(
    recording: str | Path, speakers: Sequence[str], *, crosstalk_db: float = CROSSTALK_DB
) -> list[Segment]:
    """The turns of a recording with one talker on each channel, in order of time, for `load_recording`.

    Args:
        recording: the sound file.
        speakers: who talks on each of its channels, all different.
        crosstalk_db: what is that much weaker than another channel at the same time, in dB, is taken for leakage of
            that channel's talker, and is no turn.

    Raises:
        FileNotFoundError, ValueError: as `load_audio`; also for another number of speakers than channels, the same
            speaker twice, or a recording without speech.
    """
    there = audio_channels(recording)
    if len(speakers) != there or len({*speakers}) != there or not all(map(str.strip, speakers)):
        raise ValueError(
            f"{recording} has {there} channels: name who talks on each, all different, got {[*speakers]}."
        )
    gate, detectors = CrosstalkGate(there, crosstalk_db), [TurnDetector() for _ in speakers]
    turns: list[list[SpokenTurn]] = [[] for _ in speakers]
    blocks = zip(*(audio_blocks(recording, RATE, channel=number) for number in range(1, there + 1)))
    for pieces in (*map(gate.feed, map(np.stack, blocks)), gate.flush()):
        for number, piece in enumerate(pieces):
            turns[number] += detectors[number].feed(piece, RATE)
    segments = [
        Segment(turn.start, turn.end, speaker, channel=number)
        for number, (speaker, found, detector) in enumerate(zip(speakers, turns, detectors), start=1)
        for turn in found + detector.flush()
    ]
    if not segments:
        raise ValueError(f"{recording}: no speech was found on any channel.")
    return sorted(segments, key=lambda segment: (segment.start, segment.end))


class CrosstalkGate:
    """Silences a channel where another one is much louder at the same time.

    Args:
        channels: how many there are.
        crosstalk_db: by how much weaker a channel must be, in dB.

    Raises:
        ValueError: for a level that is not above 0.
    """

    def __init__(self, channels: int, crosstalk_db: float = CROSSTALK_DB):
        if not crosstalk_db > 0:
            raise ValueError(f"crosstalk_db is a number of dB above 0, got {crosstalk_db!r}.")
        self._ratio = 10 ** (-crosstalk_db / 10)
        self._rest = np.zeros((channels, 0), np.float32)
        self._levels = np.zeros((channels, _HELD - 1))

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """The next samples, (channels, samples) at 16 kHz; up to 511 of them come out of the next call."""
        samples = np.concatenate([self._rest, samples], axis=1)
        count = samples.shape[1] // _WINDOW
        self._rest = samples[:, count * _WINDOW :]
        if not count:
            return samples[:, :0]
        windows = samples[:, : count * _WINDOW].reshape(len(samples), count, _WINDOW)
        levels = np.concatenate([self._levels, np.square(windows, dtype=np.float64).mean(axis=2)], axis=1)
        self._levels = levels[:, -(_HELD - 1) :]
        held = np.lib.stride_tricks.sliding_window_view(levels, _HELD, axis=1).max(axis=2)
        own = levels[:, _HELD - 1 :]
        others = np.stack([np.delete(held, number, axis=0).max(axis=0, initial=0.0) for number in range(len(held))])
        return (windows * (own >= others * self._ratio)[:, :, None]).reshape(len(samples), -1)

    def flush(self) -> np.ndarray:
        """What is left at the end, as it is."""
        rest, self._rest = self._rest, self._rest[:, :0]
        return rest
