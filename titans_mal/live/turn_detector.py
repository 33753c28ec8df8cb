"""Split an audio stream into turns: at pauses in speech (Silero VAD), or at given times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.audio import MIN_SECONDS, audio_blocks, check_level
from ..extras import extra
from ..modeling.audio_arrays import as_array, scale_of
from ..modeling.audio_checks import check_rate
from .stream_resampler import StreamResampler
from .turns import RATE


# Window of Silero VAD, in samples at 16 kHz.
_WINDOW = 512
_PAD_MS = 60
# Seconds of non-speech that are kept for padding the next turn.
_KEPT_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class SpokenTurn:
    """A turn that was cut out of a stream.

    Attributes:
        waveform: (samples,) float32 at 16 kHz.
        start, end: seconds of the stream.
    """

    waveform: np.ndarray
    start: float
    end: float


class TurnDetector:
    """Cuts turns out of audio that arrives in pieces.

        detector = TurnDetector()
        for chunk in chunks:
            for turn in detector.feed(chunk, 8000):
                ...
        detector.flush()

    A turn ends where speech pauses or, with `ends`, only at these times; audio after the last of them is ignored. A
    longer turn than `max_seconds` is split. Turns shorter than 0.1 s are dropped.

    Args:
        ends: increasing times, in seconds of the stream, at which turns end; None: at pauses in speech.
        min_silence: seconds without speech that end a turn.
        max_seconds: maximal length of a turn.
        threshold: minimal probability of speech in a window.

    Raises:
        ValueError: for `ends` that do not increase, or another value out of range.
    """

    def __init__(
        self,
        *,
        ends: Sequence[float] | None = None,
        min_silence: float = 0.4,
        max_seconds: float = 30.0,
        threshold: float = 0.5,
    ):
        if not 0 < min_silence < max_seconds < 86_400 or not 0 < threshold < 1:
            raise ValueError(
                "min_silence must be between 0 and max_seconds (below a day), and threshold between 0 and 1, got "
                f"{min_silence}, {max_seconds} and {threshold}."
            )
        if ends is not None and not all(math.isfinite(end) for end in ends):
            raise ValueError(f"ends must be numbers of seconds, got {list(ends)}.")
        # The remaining ends; empty if turns end at pauses.
        self._ends = [round(end * RATE) for end in ends or ()]
        if any(b <= a for a, b in zip([0, *self._ends], self._ends)):
            raise ValueError(f"ends must increase and be above 0, got {list(ends or ())}.")
        self._max_samples = round(max_seconds * RATE)
        self._detect: Any = None if ends is not None else _silero(threshold, min_silence)
        self._resampler = StreamResampler()
        # Audio from sample `first` of the stream; windows up to `seen` have been processed.
        self._audio, self._first, self._seen = np.zeros(0, np.float32), 0, 0
        # Start of the open turn; None between turns.
        self._start: int | None = 0 if ends is not None else None

    def feed(self, chunk: np.ndarray, sampling_rate: int) -> list[SpokenTurn]:
        """Process the next piece of the stream.

        Args:
            chunk: (samples,) of floats within [-1, 1], or of 16-bit integers.
            sampling_rate: sampling rate in Hz; may change between pieces.

        Returns:
            The turns that ended.

        Raises:
            ValueError: for another shape or dtype, samples that are not finite, or an invalid rate; the piece is then
                ignored.
        """
        self._extend(self._resampler.feed(checked_piece(chunk, sampling_rate)[None], sampling_rate))
        return self._turns()

    def flush(self) -> list[SpokenTurn]:
        """End the stream, and with it the open turn."""
        self._extend(self._resampler.flush())
        turns = self._turns()
        if self._start is not None:
            turns += self._cut(self._first + len(self._audio))
            if self._detect is not None:
                self._start = None
        if self._detect is not None:
            self._detect.reset_states()
            self._detect.current_sample = self._seen = self._first + len(self._audio)
        return turns

    def turns_of(self, chunks: Iterable[np.ndarray], sampling_rate: int) -> Iterator[SpokenTurn]:
        """All turns of a stream, each as soon as it has ended; arguments and errors as `feed`."""
        for chunk in chunks:
            yield from self.feed(chunk, sampling_rate)
        yield from self.flush()

    def _extend(self, samples: np.ndarray) -> None:
        self._audio = np.concatenate([self._audio, samples[0]])

    def _turns(self) -> list[SpokenTurn]:
        return self._turns_by_ends() if self._detect is None else self._turns_by_pauses()

    def _turns_by_ends(self) -> list[SpokenTurn]:
        turns, known = [], self._first + len(self._audio)
        while (
            self._start is not None
            and self._ends
            and known >= (end := min(self._ends[0], self._start + self._max_samples))
        ):
            turns += self._cut(end)
            if end == self._ends[0]:
                del self._ends[0]
        if not self._ends:
            self._forget(known)
            self._start = None
        return turns

    def _turns_by_pauses(self) -> list[SpokenTurn]:
        turns = []
        while self._first + len(self._audio) - self._seen >= _WINDOW:
            window = self._audio[self._seen - self._first :][:_WINDOW]
            found = self._detect(torch.from_numpy(window)) or {}
            self._seen += _WINDOW
            if "start" in found:
                self._start = max(self._first, found["start"])
            elif "end" in found and self._start is not None:
                turns += self._cut(max(self._start, found["end"]))
                self._start = None
            elif self._start is not None and self._seen - self._start >= self._max_samples:
                turns += self._cut(self._start + self._max_samples)
        if self._start is None:
            self._forget(self._seen - round(_KEPT_SECONDS * RATE))
        return turns

    def _cut(self, end: int) -> list[SpokenTurn]:
        """The turn from its start to a sample of the stream, where the next one may start."""
        start, self._start = self._start or 0, end
        waveform = self._audio[start - self._first : end - self._first].copy()
        self._forget(end)
        if len(waveform) < MIN_SECONDS * RATE or not waveform.any():
            return []
        return [SpokenTurn(waveform, start / RATE, (start + len(waveform)) / RATE)]

    def _forget(self, before: int) -> None:
        dropped = max(0, min(before - self._first, len(self._audio)))
        self._audio, self._first = self._audio[dropped:], self._first + dropped


def _silero(threshold: float, min_silence: float):
    """A separate detector, since it is stateful."""
    threads = torch.get_num_threads()
    with extra("live", "Cutting a stream at its pauses"):
        from silero_vad import VADIterator, load_silero_vad

    torch.set_num_threads(threads)  # the import sets it to one
    model = load_silero_vad()
    silence = round(min_silence * 1000)
    return VADIterator(model, threshold, RATE, min_silence_duration_ms=silence, speech_pad_ms=_PAD_MS)


def spoken_turns(recording: str | Path) -> Iterator[SpokenTurn]:
    """The turns of an audio file, split at pauses in speech; it is decoded in blocks.

    Raises:
        FileNotFoundError, ValueError: as `audio_blocks`.
        MissingExtraError: if the speech detector is not installed.
    """
    yield from TurnDetector().turns_of(audio_blocks(recording, RATE), RATE)


def checked_piece(chunk: np.ndarray, sampling_rate: int) -> np.ndarray:
    """A piece of a stream as (samples,) float32 within [-1, 1]; arguments and errors as `TurnDetector.feed`."""
    chunk = as_array(chunk)
    if chunk.ndim != 1 or (chunk.dtype.kind != "f" and chunk.dtype != np.int16):
        raise ValueError(
            f"A piece of audio must be (samples,) of floats or 16-bit integers, got {chunk.dtype} {chunk.shape}."
        )
    check_rate(sampling_rate)
    samples = scale_of(chunk, "A piece of audio").of(chunk)
    check_level(samples, "A piece of audio")
    return samples.astype(np.float32)
