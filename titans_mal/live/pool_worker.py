"""The thread of a pool that scores its queue, batch by batch: `PoolWorker`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.conversation_store import LOST, ConversationInUse, ConversationStore
from ..modeling.turn_scoring import ScoredTurn
from .remembered_speakers import RememberedSpeakers, turns_here
from .turn_queue import TurnQueue, WaitingTurn
from .turns import LiveScorer, TurnEmotion, answered_before, history_of, remember, start_after


logger = logging.getLogger(__name__)

# How long a turn waits for a conversation used by another server; locks expire earlier.
_BUSY_SECONDS = 90.0
# After this time it is tried again; turns of other conversations are scored meanwhile.
_RETRY_SECONDS = 0.1
# Lengths of a turn that is sent again differ by rounding at most.
_SAME_SECONDS = 0.01
# Number of turns for the percentiles of the latency.
_LATENCIES = 1000


class PoolObserver:
    """Events that a pool reports, from the scoring thread: implementations must be fast."""

    def queued(self, waiting: int) -> None:
        """A turn was queued; `waiting` turns are now in the queue."""

    def batch(self, turns: int) -> None:
        """A batch of `turns` turns is scored."""

    def answered(self, conversation: str, turns: list[TurnEmotion], stages: Mapping[str, float]) -> None:
        """The last turn of a conversation was answered, with the seconds of each stage (see `TurnFuture`)."""


class PoolWorker:
    """Scores the turns of a queue in a thread of its own until the queue is closed and empty.

    Args:
        queue: returns batches of turns of different conversations.
        scorer: scores them.
        store: keeps the states of conversations.
        remembered: keeps the memory of consenting speakers; None: nobody is remembered.
    """

    def __init__(
        self, queue: TurnQueue, scorer: LiveScorer, store: ConversationStore, remembered: RememberedSpeakers | None
    ):
        self._queue, self._scorer, self._store, self._remembered = queue, scorer, store, remembered
        self._observers: list[PoolObserver] = []
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._batches: Counter[int] = Counter()
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._thread = threading.Thread(target=self._work, name="ConversationPool", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread runs; False also in a fork of its process."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until the queue is closed and empty."""
        self._thread.join()

    def observe(self, observer: PoolObserver) -> None:
        """Report events to an observer from now on."""
        self._observers.append(observer)

    def report(self, to: Callable[[PoolObserver], None]) -> None:
        """Report an event to all observers, whose errors are only logged."""
        for observer in self._observers:
            try:
                to(observer)
            except Exception:  # an observer must not affect the turns
                logger.exception("An observer of the pool failed.")

    def counters(self) -> dict[str, Any]:
        """`turns`, `failures`, `batches` and `latency`, as in `ConversationPool.counters`."""
        with self._lock:
            latencies = list(self._latencies)
            percentiles = np.percentile(latencies, (50, 95, 99)).tolist() if latencies else [None] * 3
            return {
                "turns": self._counts["turns"],
                "failures": self._counts["failures"],
                "batches": dict(sorted(self._batches.items())),
                "latency": dict(zip(("p50", "p95", "p99"), percentiles)),
            }

    def _work(self) -> None:
        while batch := self._queue.next_batch():
            # Turns cannot be cancelled any more from here; cancelled ones are not scored.
            batch = [one for one in batch if one.answer.running() or one.answer.set_running_or_notify_cancel()]
            try:
                self._score(batch)
            except Exception as error:
                # No exception may stop the worker, which serves all conversations.
                for turn in batch:
                    if not turn.answer.done() and turn not in self._queue:
                        self._fail(turn, error)

    def _score(self, batch: list[WaitingTurn]) -> None:
        """Score a batch of turns of different conversations."""
        began = time.perf_counter()
        with contextlib.ExitStack() as everything:
            opened = []
            # In a fixed order, so that processes that share conversations cannot deadlock.
            for turn in sorted(batch, key=lambda turn: turn.conversation):
                turn.answer.stages["wait"] = began - turn.queued
                held = everything.enter_context(contextlib.ExitStack())
                try:
                    # Opened once, so that no other server can write the same request between the look for it and
                    # the turn. Only this look needs the state before a reset.
                    state = self._store.conversation(
                        turn.conversation,
                        reset=turn.reset and turn.retry_key is None,
                        discard_unreadable=turn.reset,
                    )
                    cache = held.enter_context(state)
                    if (known := self._answered_before(turn, cache)) is not None:
                        held.close()
                        turn.answer.set_result(known)
                        continue
                    if turn.reset:
                        cache.reset()
                    start = start_after(cache, turn.start, turn.gap)
                    if self._remembered is not None:
                        self._remembered.begin(cache, turn.speaker, turn.person)
                    opened.append((turn, held, cache, start))
                except Exception as error:
                    held.__exit__(type(error), error, error.__traceback__)
                    if isinstance(error, ConversationInUse):
                        self._try_later(turn, error)
                    else:
                        self._fail(turn, error)
            if not opened:
                return
            self._note_batch(len(opened))
            ready = time.perf_counter()
            scored = self._score_together([(turn, cache) for turn, _, cache, _ in opened])
            forward = time.perf_counter() - ready
            for (turn, held, cache, start), result in zip(opened, scored):
                turn.answer.stages["forward"] = forward
                self._answer(turn, held, cache, start, result, began=began)

    def _note_batch(self, size: int) -> None:
        with self._lock:
            self._batches[size] += 1
        self.report(lambda observer: observer.batch(size))

    def _answered_before(self, turn: WaitingTurn, cache: ConversationMemoryCache) -> TurnEmotion | None:
        """The turn of the conversation that a request repeats, by its key."""
        try:
            known = answered_before(cache, turn.retry_key)
        except (ValueError, TypeError):  # an unreadable history has no turns
            return None
        seconds = len(turn.waveform) / self._scorer.sampling_rate
        if known is not None and abs(known.end - known.start - seconds) > _SAME_SECONDS:
            raise ValueError(
                f"The retry key {turn.retry_key!r} belongs to a turn of {known.end - known.start:.2f} s, but "
                f"this turn has {seconds:.2f} s: use a different key for each turn."
            )
        return known

    def _try_later(self, turn: WaitingTurn, error: ConversationInUse) -> None:
        """Put a turn back as the first of its conversation."""
        if time.perf_counter() - turn.began > _BUSY_SECONDS:
            self._fail(turn, error)
        else:
            self._queue.put_back(turn, _RETRY_SECONDS)

    def _answer(
        self,
        turn: WaitingTurn,
        held: contextlib.ExitStack,
        cache: ConversationMemoryCache,
        start: float,
        result: ScoredTurn | Exception,
        *,
        began: float,
    ) -> None:
        """Add a turn to its conversation, release it, and answer; its batch began at `began`."""
        try:
            with held:
                if isinstance(result, Exception):
                    raise result
                answer = self._scorer.turn(
                    result,
                    turn_index=turns_here(cache) - 1,
                    speaker=turn.speaker,
                    start=start,
                    seconds=len(turn.waveform) / self._scorer.sampling_rate,
                    latency=time.perf_counter() - turn.began,
                    settings=turn.settings,
                )
                if cache.notes.get(LOST):
                    answer = replace(answer, history_lost=True)
                remember(cache, answer, turn.retry_key)
                if self._remembered is not None:
                    self._remembered.end(cache, turn.speaker)
                turns = history_of(cache) if self._observers else []
        except Exception as error:
            self._fail(turn, error)
            return
        stages = turn.answer.stages
        stages["store"] = time.perf_counter() - began - stages["forward"]
        with self._lock:
            self._counts["turns"] += 1
            self._latencies.append(answer.latency)
        self.report(lambda observer: observer.answered(turn.conversation, turns, stages))
        turn.answer.set_result(answer)

    def _score_together(self, opened: list[tuple[WaitingTurn, ConversationMemoryCache]]) -> list[Any]:
        """The `ScoredTurn` of each turn, or its error; after a failed batch, turns are scored one by one."""
        turns, caches = zip(*opened)
        try:
            waveforms, speakers = zip(*((turn.waveform, turn.speaker) for turn in turns))
            return [*self._scorer.score(waveforms, speakers, caches)]
        except Exception as error:
            if len(opened) == 1:
                return [error]
            return [result for one in opened for result in self._score_together([one])]

    def _fail(self, turn: WaitingTurn, error: Exception) -> None:
        with self._lock:
            self._counts["failures"] += 1
        turn.answer.set_exception(error)
