"""One live conversation, turn by turn: `ConversationAnalyzer`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..modeling.conversation_memory_cache import ConversationMemoryCache
from .label_settings import LabelSettings
from .turn_detector import TurnDetector
from .turns import RATE, LiveScorer, TurnEmotion, check_speaker, history_of, remember, start_after


class ConversationAnalyzer:
    """Scores the turns of one conversation as it goes on.

        analyzer = ConversationAnalyzer(model, processor)
        analyzer.push("turn0.wav", speaker="A").label

    Analyzers of several conversations may share a model, each in a thread of its own; pushes to one analyzer wait for
    each other.

    Args:
        model: with memory; it is put into evaluation mode.
        processor: of its host.
        labels: of the model, to choose among; None = all.
        unknown_below: a turn whose most probable label is less probable is "unknown".

    Raises:
        ValueError: for labels that the model does not know, or an `unknown_below` outside of [0, 1].
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
        """Bytes of the memory's state, which do not grow with the conversation."""
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
        """Score one more turn.

        Args:
            audio: what `load_audio` takes, or an array (samples,) with its rate.
            sampling_rate: of an array, in Hz; turns may have different ones.
            speaker: who talks; needed where the memory is by speaker.
            start: seconds of the conversation; None: as the turn before ends. Turns may overlap: they are taken in the
                order in which they come, which is that of their ends.

        Raises:
            ValueError: for audio that cannot be used, or a start that is before the conversation's; the conversation
                is then as it was.
        """
        began = time.perf_counter()
        check_speaker(speaker)
        waveform = self._scorer.load(audio, sampling_rate)
        with self._lock:
            index, start = int(self._cache.turns.sum()), start_after(self._cache, start)
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
        **detection,
    ) -> Iterator[TurnEmotion]:
        """Score audio that comes in pieces, as turns that are cut out of it; each is given as soon as it has ended.

        Times go on from the end of the turn before the stream. What cannot be used of the stream (a turn of silence,
        or shorter than 0.1 s) is passed over.

        Args:
            chunks: (samples,) of floats within [-1, 1] or of 16-bit integers, of any length.
            sampling_rate: in Hz.
            speaker: who talks in all of it.
            detection: of `TurnDetector`: `ends` where the ends of turns are known, `min_silence`, `max_seconds`,
                `threshold`.

        Raises:
            ValueError: as `TurnDetector`, and as `push`; turns before the error have been scored.
        """
        check_speaker(speaker)
        return self._score_stream(TurnDetector(**detection), chunks, sampling_rate, speaker)

    def _score_stream(
        self, detector: TurnDetector, chunks: Iterable[np.ndarray], sampling_rate: int, speaker: str | None
    ) -> Iterator[TurnEmotion]:
        with self._lock:
            offset = start_after(self._cache, None)
        pieces = (detector.feed(chunk, sampling_rate) for chunk in chunks)
        for turns in itertools.chain(pieces, map(TurnDetector.flush, [detector])):
            for turn in turns:
                yield self.push(turn.waveform, RATE, speaker=speaker, start=offset + turn.start)

    def reset(self) -> None:
        """Forget the conversation."""
        with self._lock:
            self._cache.reset()

    def save(self, folder: str | Path) -> None:
        """Write state and history, for `load` in another process to go on from.

        Raises:
            OSError: if it cannot be written, as on a full disk; the analyzer is as it was, and so is what was saved
                there before.
        """
        with self._lock:
            self._cache.save_pretrained(folder)

    def load(self, folder: str | Path) -> None:
        """Go on from what `save` wrote, in place of the present conversation.

        Raises:
            FileNotFoundError: if there is nothing in the folder.
            ValueError: if it cannot be read, belongs to another model, or is no state of an analyzer; the analyzer is
                then as it was.
        """
        model = self._scorer.model
        known = model.titans_memory.fingerprint()
        cache = ConversationMemoryCache.from_pretrained(folder, model.config, weights_fingerprint=known)
        turns, written = history_of(cache), int(cache.turns.sum())
        if cache.batch_size != 1:
            raise ValueError(f"{folder} holds {cache.batch_size} conversations, and not one.")
        if len(turns) != written:
            raise ValueError(f"{folder} holds the state of {written} turns, and a history of {len(turns)}.")
        cache.to(model.titans_memory.device)
        with self._lock:
            self._cache.adopt(cache)
