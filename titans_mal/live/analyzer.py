"""One live conversation, turn by turn: `ConversationAnalyzer`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.turn_rules import check_flag
from .label_settings import LabelSettings
from .turn_detector import TurnDetector
from .turns import RATE, LiveScorer, TurnEmotion, check_speaker, history_of, remember, start_after


class ConversationAnalyzer:
    """Scores the turns of a live conversation.

        analyzer = ConversationAnalyzer(model, processor)
        analyzer.push("turn0.wav", speaker="A").label

    Analyzers of several conversations may share a model, each in its own thread; calls to one analyzer wait for each
    other.

    Args:
        model: a model with memory; it is put into evaluation mode.
        processor: the processor of its host.
        labels: labels of the model to choose among; None = all.
        unknown_below: the label is "unknown" if the most probable label is less probable than this.

    Raises:
        ValueError: for unknown labels, or an `unknown_below` outside [0, 1].
    """

    def __init__(self, model, processor, *, labels: Sequence[str] | None = None, unknown_below: float = 0.0):
        self._scorer = LiveScorer(model, processor, LabelSettings(labels, unknown_below))
        self._lock = threading.Lock()
        self._cache = ConversationMemoryCache(model.config)

    @property
    def history(self) -> list[TurnEmotion]:
        """The turns so far."""
        with self._lock:
            return history_of(self._cache)

    @property
    def nbytes(self) -> int:
        """Size of the memory's state in bytes, which does not grow with the conversation."""
        with self._lock:
            return self._cache.nbytes

    def push(
        self,
        audio,
        sampling_rate: int | None = None,
        *,
        speaker: str | None = None,
        start: float | None = None,
    ) -> TurnEmotion:
        """Score the next turn.

        Args:
            audio: a source for `load_audio`, or an array (samples,) with its rate.
            sampling_rate: sampling rate of an array, in Hz; turns may have different rates.
            speaker: required if the memory is kept per speaker.
            start: seconds of the conversation; None: the end of the previous turn. Turns may overlap: they are
                processed in the given order, which should be that of their ends.

        Raises:
            ValueError: for unusable audio, or a start before the conversation's; the conversation is then unchanged.
        """
        began = time.perf_counter()
        check_speaker(speaker)
        waveform = self._scorer.load(audio, sampling_rate)
        with self._lock:
            return self._add(waveform, speaker, start_after(self._cache, start), began)

    def push_split(
        self,
        audio,
        sampling_rate: int | None = None,
        *,
        speaker: str | None = None,
        start: float | None = None,
    ) -> list[TurnEmotion]:
        """Score the next turn as several, cut at its pauses, if it is longer than the host's window.

        Args and errors as for `push`. Silent pieces are left out.
        """
        began = time.perf_counter()
        check_speaker(speaker)
        waveform, rate = self._scorer.load(audio, sampling_rate), self._scorer.sampling_rate
        with self._lock:
            offset, before = start_after(self._cache, start), self._cache.snapshot()
            try:
                return [
                    self._add(waveform[first:last], speaker, offset + first / rate, began)
                    for first, last in self._scorer.pieces(waveform)
                ]
            except BaseException:
                self._cache.adopt(before)
                raise

    def _add(self, waveform: np.ndarray, speaker: str | None, start: float, began: float) -> TurnEmotion:
        """Score and remember a turn whose call began at `began`; the lock is held."""
        index = int(self._cache.turns.sum())
        (scored,) = self._scorer.score([waveform], [speaker], [self._cache])
        turn = self._scorer.turn(
            scored,
            turn_index=index,
            speaker=speaker,
            start=start,
            seconds=len(waveform) / self._scorer.sampling_rate,
            latency=time.perf_counter() - began,
        )
        remember(self._cache, turn)
        return turn

    def push_stream(
        self,
        chunks: Iterable[np.ndarray],
        sampling_rate: int,
        *,
        speaker: str | None = None,
        split_long: bool = False,
        **detection,
    ) -> Iterator[TurnEmotion]:
        """Score an audio stream: turns are cut out of it, and each is yielded as soon as it has ended.

        Times continue from the end of the turn before the stream. Unusable turns (silent, or shorter than 0.1 s) are
        skipped.

        Args:
            chunks: (samples,) floats within [-1, 1] or 16-bit integers, of any length.
            sampling_rate: sampling rate, in Hz.
            speaker: the speaker of the whole stream.
            split_long: score turns that are longer than the host's window as several, as `push_split`.
            detection: options of `TurnDetector`: `ends` if the ends of turns are known, `min_silence`, `max_seconds`,
                `threshold`.

        Raises:
            ValueError: as `TurnDetector`, and as `push`; turns before the error have been scored.
        """
        check_speaker(speaker)
        check_flag(split_long, "split_long")
        return self._score_stream(TurnDetector(**detection), chunks, sampling_rate, speaker, split_long)

    def _score_stream(
        self,
        detector: TurnDetector,
        chunks: Iterable[np.ndarray],
        sampling_rate: int,
        speaker: str | None,
        split_long: bool,
    ) -> Iterator[TurnEmotion]:
        with self._lock:
            offset = start_after(self._cache, None)
        for turn in detector.turns_of(chunks, sampling_rate):
            given = (turn.waveform, RATE)
            start = offset + turn.start
            if split_long:
                yield from self.push_split(*given, speaker=speaker, start=start)
            else:
                yield self.push(*given, speaker=speaker, start=start)

    def reset(self) -> None:
        """Forget the conversation."""
        with self._lock:
            self._cache.reset()

    def save(self, folder: str | Path) -> None:
        """Save state and history, to be loaded by another process.

        Raises:
            OSError: if it cannot be written, as on a full disk; the analyzer and an earlier save are then unchanged.
        """
        with self._lock:
            self._cache.save_pretrained(folder)

    def load(self, folder: str | Path) -> None:
        """Replace the present conversation by one written by `save`.

        Raises:
            FileNotFoundError: if the folder holds no state.
            ValueError: if the state is unreadable, belongs to another model, or is not that of an analyzer; the
                analyzer is then unchanged.
        """
        model = self._scorer.model
        known = model.titans_memory.fingerprint()
        cache = ConversationMemoryCache.from_pretrained(folder, model.config, weights_fingerprint=known)
        turns, written = history_of(cache), int(cache.turns.sum())
        if cache.batch_size != 1:
            raise ValueError(f"{folder} holds {cache.batch_size} conversations, expected one.")
        if len(turns) != written:
            raise ValueError(f"{folder} holds the state of {written} turns, but the history of {len(turns)} turns.")
        cache.to(model.titans_memory.device)
        with self._lock:
            self._cache.adopt(cache)
