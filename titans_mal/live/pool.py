"""Many live conversations at once, their turns in common batches: `ConversationPool`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.audio_loading import MAX_TURN_SECONDS
from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.conversation_store import LOST, ConversationInUse, ConversationStore, StateFolder, state_key
from ..modeling.turn_rules import check_text
from ..modeling.turn_scoring import ScoredTurn
from .turns import LiveScorer, TurnEmotion, answered_before, check_speaker, history_of, remember, start_after


class PoolError(RuntimeError):
    """A pool takes no turn now."""


# For which a turn waits whose conversation another server has; locks run out before.
_BUSY_SECONDS = 90.0
# Turns that the percentiles of the latency are taken of.
_LATENCIES = 1000


@dataclass(eq=False)
class _Request:
    """A turn that waits to be scored."""

    conversation: str
    waveform: np.ndarray
    speaker: str | None
    start: float | None
    anew: bool
    began: float
    retry_key: str | None = None
    answer: Future = field(default_factory=Future)


class ConversationPool:
    """Scores many conversations at once: turns of different ones that wait together go through the model as one batch.

        with ConversationPool(model, processor) as pool:
            future = pool.submit("call 17", samples, 8000, speaker="A")
            future.result().label  # not to be waited for in a callback of a future, which runs where turns are scored

    The turns of a conversation are scored strictly in the order in which they were submitted. A turn that fails fails
    alone, and leaves its conversation as it was; one that is cancelled while it waits is not scored. Where a host's
    audio tower processes the padding of a batch, give `max_batch=1`.

    Args:
        model: with memory; it is put into evaluation mode.
        processor: of its host.
        max_batch: turns in a batch.
        max_wait_ms: milliseconds that a turn waits for others to fill its batch.
        max_live: conversations at hand; others lie in `states` and come back bit by bit.
        states: a folder, or what has the methods of `StateFolder`; None: a temporary folder.
        time_to_live: seconds after which a conversation is forgotten that nobody used.
        max_waiting: turns that may wait; more are refused.
        max_waiting_megabytes: of their audio, 0.064 a second; one turn alone may always wait.
        labels, unknown_below: as `ConversationAnalyzer`.
        log_name: what stands for a conversation's name in logs.

    Raises:
        ValueError: for a bound that is not above 0, and as `ConversationAnalyzer`.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        max_batch: int = 16,
        max_wait_ms: float = 5.0,
        max_live: int = 256,
        states: StateFolder | str | Path | None = None,
        time_to_live: float = 3600.0,
        max_waiting: int = 1024,
        max_waiting_megabytes: float = 512.0,
        labels: Sequence[str] | None = None,
        unknown_below: float = 0.0,
        log_name: Callable[[str], str] = repr,
    ):
        if max_batch < 1 or max_waiting < 1 or not max_wait_ms >= 0 or not max_waiting_megabytes > 0:
            raise ValueError(
                "max_batch and max_waiting are at least 1, max_wait_ms at least 0 and max_waiting_megabytes above 0, "
                f"got {max_batch}, {max_waiting}, {max_wait_ms} and {max_waiting_megabytes}."
            )
        self._max_waiting_bytes = max_waiting_megabytes * 1_000_000
        self._scorer = LiveScorer(model, processor, labels=labels, unknown_below=unknown_below)
        self._store = ConversationStore(model, states, max_live=max_live, time_to_live=time_to_live, log_name=log_name)
        self._max_batch, self._max_wait, self._max_waiting = max_batch, max_wait_ms / 1000, max_waiting
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._counts: Counter[str] = Counter()
        self._batches: Counter[int] = Counter()
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._worker = threading.Thread(target=self._work, name="ConversationPool", daemon=True)
        self._worker.start()

    def __enter__(self) -> ConversationPool:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether no more turns are taken."""
        return self._is_closed or not self._worker.is_alive()

    def submit(
        self,
        conversation: str,
        audio,
        sampling_rate: int | None = None,
        *,
        speaker: str | None = None,
        start: float | None = None,
        anew: bool = False,
        max_seconds: float = MAX_TURN_SECONDS,
        retry_key: str | None = None,
    ) -> Future[TurnEmotion]:
        """Let a turn be scored when its batch is full or has waited long enough.

        Args:
            conversation: its name; a new one begins a conversation.
            audio, sampling_rate, speaker, start: as `ConversationAnalyzer.push`.
            anew: forget what was said in the conversation so far.
            max_seconds: that the turn may last.
            retry_key: of this turn; where one of the last 32 turns with a key had this one, it is answered again, and
                nothing is written.

        Raises:
            AudioTooLong: for a longer turn.
            ValueError: for other audio that cannot be used, or a speaker that is no text.
            TypeError: for a conversation that is not named by text.
            PoolError: if too many turns wait, the pool is closed or its worker has ended, or this process is a fork of
                the one that made it.
        """
        began = time.perf_counter()
        state_key(conversation)
        check_text(conversation, "A conversation")
        check_speaker(speaker)
        if retry_key is not None:
            check_text(retry_key, "A retry key")
        if self.is_closed:
            raise PoolError("The pool is closed.")
        waveform = self._scorer.load(audio, sampling_rate, max_seconds=max_seconds)
        request = _Request(conversation, waveform, speaker, start, anew, began, retry_key)
        with self._changed:
            if self.is_closed:
                raise PoolError("The pool is closed.")
            if len(self._waiting) >= self._max_waiting:
                raise PoolError(f"{len(self._waiting)} turns wait already, which is as many as may.")
            if self._waiting and self._waiting_bytes() + waveform.nbytes > self._max_waiting_bytes:
                raise PoolError(
                    f"Turns of {self._waiting_bytes() / 1e6:.0f} MB wait already, which is as much as may."
                )
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def _waiting_bytes(self) -> int:
        return sum(request.waveform.nbytes for request in self._waiting)

    def push(self, conversation: str, audio, sampling_rate: int | None = None, **kwargs) -> TurnEmotion:
        """As `submit`, and wait for the answer."""
        return self.submit(conversation, audio, sampling_rate, **kwargs).result()

    def history(self, conversation: str) -> list[TurnEmotion]:
        """The turns of a conversation so far; none of one that is not known."""
        cache = self._store.peek(conversation)
        return [] if cache is None else history_of(cache)

    def forget(self, conversation: str) -> None:
        """Forget what was said; turns that wait are scored as those of a new conversation.

        Raises:
            PoolError: if the pool is closed.
        """
        if self._is_closed:
            raise PoolError("The pool is closed.")
        with self._store.conversation(conversation, reset=True):
            pass

    def counters(self) -> dict[str, Any]:
        """How it goes.

        Returns:
            `turns` and `failures` so far, `waiting` now, `live` conversations, `batches` (how many there were of each
            size), `latency` (seconds from submission to answer; the 50th, 95th and 99th percentile of the last
            thousand; None before the first).
        """
        with self._changed:
            latencies, waiting = list(self._latencies), len(self._waiting)
            percentiles = np.percentile(latencies, (50, 95, 99)).tolist() if latencies else [None] * 3
            return {
                "turns": self._counts["turns"],
                "failures": self._counts["failures"],
                "waiting": waiting,
                "live": len(self._store.live),
                "batches": dict(sorted(self._batches.items())),
                "latency": dict(zip(("p50", "p95", "p99"), percentiles)),
            }

    def close(self) -> None:
        """Score the turns that wait, write all conversations to disk, and take no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._worker.join()
        self._store.save()

    def _work(self) -> None:
        while batch := self._next_batch():
            # From here on they cannot be cancelled; those that were are not scored.
            batch = [one for one in batch if one.answer.running() or one.answer.set_running_or_notify_cancel()]
            try:
                self._score(batch)
            except Exception as error:
                # Nothing may stop the worker, on which all conversations wait.
                for request in batch:
                    if not request.answer.done() and request not in self._waiting:
                        self._fail(request, error)

    def _next_batch(self) -> list[_Request]:
        """The first turn that waits of each of up to `max_batch` conversations; none when the pool is closed."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            while self._waiting and not self._is_closed:
                left = self._waiting[0].began + self._max_wait - time.perf_counter()
                if left <= 0 or len({request.conversation for request in self._waiting}) >= self._max_batch:
                    break
                self._changed.wait(left)
            chosen: dict[str, _Request] = {}
            for request in self._waiting:
                if len(chosen) < self._max_batch:
                    chosen.setdefault(request.conversation, request)
            batch = list(chosen.values())
            self._waiting = deque(request for request in self._waiting if request not in batch)
            return batch

    def _score(self, batch: list[_Request]) -> None:
        """Answer each request of a batch, of conversations that differ."""
        with contextlib.ExitStack() as everything:
            opened = []
            # In one order everywhere, so that processes that share conversations do not wait for each other.
            for request in sorted(batch, key=lambda request: request.conversation):
                held = everything.enter_context(contextlib.ExitStack())
                try:
                    if (known := self._answered_before(request)) is not None:
                        request.answer.set_result(known)
                        continue
                    cache = held.enter_context(self._store.conversation(request.conversation, reset=request.anew))
                    opened.append((request, held, cache, start_after(cache, request.start)))
                except ConversationInUse as error:
                    self._try_later(request, error)
                except Exception as error:
                    held.__exit__(type(error), error, error.__traceback__)
                    self._fail(request, error)
            if opened:
                with self._changed:
                    self._batches[len(opened)] += 1
            scored = self._score_together([(request, cache) for request, _, cache, _ in opened])
            for (request, held, cache, start), result in zip(opened, scored):
                self._answer(request, held, cache, start, result)

    def _answered_before(self, request: _Request) -> TurnEmotion | None:
        """The turn that a request repeats, by its key; also where it would begin the conversation again."""
        if request.retry_key is None:
            return None
        try:
            with self._store.conversation(request.conversation) as cache:
                return answered_before(cache, request.retry_key)
        except (ValueError, TypeError):  # a state that cannot be read has no turns
            return None

    def _try_later(self, request: _Request, error: ConversationInUse) -> None:
        """Let a turn wait on, first of its conversation; others are scored meanwhile."""
        if time.perf_counter() - request.began > _BUSY_SECONDS:
            self._fail(request, error)
            return
        with self._changed:
            self._waiting.appendleft(request)

    def _answer(
        self,
        request: _Request,
        held: contextlib.ExitStack,
        cache: ConversationMemoryCache,
        start: float,
        result: ScoredTurn | Exception,
    ) -> None:
        """Note a turn in its conversation, let go of that, and answer."""
        try:
            with held:
                if isinstance(result, Exception):
                    raise result
                turn = self._scorer.turn(
                    result,
                    turn_index=int(cache.turns.sum()) - 1,
                    speaker=request.speaker,
                    start=start,
                    seconds=len(request.waveform) / self._scorer.sampling_rate,
                    latency=time.perf_counter() - request.began,
                )
                if cache.notes.get(LOST):
                    turn = replace(turn, history_lost=True)
                remember(cache, turn, request.retry_key)
        except Exception as error:
            self._fail(request, error)
            return
        with self._changed:
            self._counts["turns"] += 1
            self._latencies.append(turn.latency)
        request.answer.set_result(turn)

    def _score_together(self, opened: list[tuple[_Request, ConversationMemoryCache]]) -> list[ScoredTurn | Exception]:
        """The scores of each turn; if a batch fails, each is scored alone, to find whose fault it was."""
        if not opened:
            return []
        requests, caches = zip(*opened)
        try:
            waveforms, speakers = zip(*((request.waveform, request.speaker) for request in requests))
            return [*self._scorer.score(waveforms, speakers, caches)]
        except Exception as error:
            if len(opened) == 1:
                return [error]
            return [result for one in opened for result in self._score_together([one])]

    def _fail(self, request: _Request, error: Exception) -> None:
        with self._changed:
            self._counts["failures"] += 1
        request.answer.set_exception(error)
