"""Many live conversations at once, their turns in common batches: `ConversationPool`."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.audio_loading import MAX_TURN_SECONDS
from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.conversation_store import LOST, ConversationInUse, ConversationStore, StateFolder, state_key
from ..modeling.state_folder import SharedStates
from ..modeling.turn_rules import check_text
from ..modeling.turn_scoring import ScoredTurn
from .label_settings import LabelSettings
from .turn_queue import PoolError, TurnFuture, TurnQueue, WaitingTurn
from .turns import LiveScorer, TurnEmotion, answered_before, check_speaker, history_of, remember, start_after


__all__ = ["ConversationPool", "PoolError", "PoolObserver"]

logger = logging.getLogger(__name__)

# For which a turn waits whose conversation another server has; locks run out before.
_BUSY_SECONDS = 90.0
# Turns that the percentiles of the latency are taken of.
_LATENCIES = 1000


class PoolObserver:
    """What a pool reports to who derives from it, from the thread in which turns are scored, so be quick."""

    def queued(self, waiting: int) -> None:
        """A turn waits, as one of so many."""

    def batch(self, turns: int) -> None:
        """A batch of so many turns goes through the model."""

    def answered(self, conversation: str, turns: list[TurnEmotion], stages: Mapping[str, float]) -> None:
        """The last of a conversation's turns was answered, after so many seconds of each stage (`TurnFuture`)."""


class ConversationPool:
    """Scores many conversations at once: turns of different ones that wait together go through the model as one batch.

        with ConversationPool(model, processor) as pool:
            future = pool.submit("call 17", samples, 8000, speaker="A")
            future.result().label  # not to be waited for in a callback of a future, which runs where turns are scored

    The turns of a conversation are scored strictly in the order in which they were submitted. A turn that fails fails
    alone, and leaves its conversation as it was; one that is cancelled while it waits is not scored. Where the padding
    of a batch changes shorter turns of a host (`tower_mixes_padding`), turns of one length are batched.

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
        states: StateFolder | SharedStates | str | Path | None = None,
        time_to_live: float = 3600.0,
        max_waiting: int = 1024,
        max_waiting_megabytes: float = 512.0,
        labels: Sequence[str] | None = None,
        unknown_below: float = 0.0,
        log_name: Callable[[str], str] = repr,
    ):
        self._queue = TurnQueue(
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_waiting=max_waiting,
            max_waiting_megabytes=max_waiting_megabytes,
        )
        self.label_settings = LabelSettings(labels, unknown_below)
        self._scorer = LiveScorer(model, processor, self.label_settings)
        self._store = ConversationStore(model, states, max_live=max_live, time_to_live=time_to_live, log_name=log_name)
        self._observers: list[PoolObserver] = []
        self._lock = threading.Lock()
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
        return self._queue.is_closed or not self._worker.is_alive()

    @property
    def min_turn_seconds(self) -> float:
        """The shortest turn that the model takes; a shorter one ends in silence."""
        return self._scorer.min_seconds

    def check(self, settings: LabelSettings) -> None:
        """Raise a ValueError for settings that the model cannot answer."""
        self._scorer.check(settings)

    def observe(self, observer: PoolObserver) -> None:
        """Report to an observer from now on."""
        self._observers.append(observer)

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
        settings: LabelSettings | None = None,
        stages: Mapping[str, float] | None = None,
    ) -> TurnFuture:
        """Let a turn be scored when its batch is full or has waited long enough.

        Args:
            conversation: its name; a new one begins a conversation.
            audio, sampling_rate, speaker, start: as `ConversationAnalyzer.push`.
            anew: forget what was said in the conversation so far.
            max_seconds: that the turn may last.
            retry_key: of this turn; where one of the last 32 turns with a key had this one, it is answered again, and
                nothing is written.
            settings: of this turn; None: the pool's.
            stages: seconds that were spent on the turn already, by stage.

        Raises:
            AudioTooLong: for a longer turn.
            ValueError: for other audio that cannot be used, a speaker that is no text, or labels that are not known.
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
        settings = settings or self.label_settings
        self._scorer.check(settings)
        if self.is_closed:
            raise PoolError("The pool is closed.")
        waveform = self._scorer.load(audio, sampling_rate, max_seconds=max_seconds)
        turn = WaitingTurn(conversation, waveform, speaker, start, anew, settings, began, retry_key)
        turn.answer.stages.update(stages or {}, decode=turn.queued - began)
        if self.is_closed:
            raise PoolError("The pool is closed.")
        waiting = self._queue.put(turn)
        self._report(lambda observer: observer.queued(waiting))
        return turn.answer

    def push(self, conversation: str, audio, sampling_rate: int | None = None, **kwargs) -> TurnEmotion:
        """As `submit`, and wait for the answer."""
        return self.submit(conversation, audio, sampling_rate, **kwargs).result()

    def history(self, conversation: str) -> list[TurnEmotion]:
        """The turns of a conversation so far; none of one that is not known."""
        cache = self._store.peek(conversation)
        return [] if cache is None else history_of(cache)

    def names(self) -> list[str]:
        """Names of all conversations that are not forgotten, in alphabetical order."""
        return self._store.names()

    def forget_expired(self) -> None:
        """Forget the conversations that nobody used for their time to live, also where no turn comes."""
        self._store.forget_expired()

    def forget(self, conversation: str) -> None:
        """Forget what was said; turns that wait are scored as those of a new conversation.

        Raises:
            PoolError: if the pool is closed.
        """
        if self._queue.is_closed:
            raise PoolError("The pool is closed.")
        with self._store.conversation(conversation, reset=True):
            pass

    def counters(self) -> dict[str, Any]:
        """How it goes.

        Returns:
            `turns` and `failures` so far, `waiting` now, `live` conversations, `batches` (how many there were of each
            size), `latency` (seconds from submission to answer; the 50th, 95th and 99th percentile of the last
            thousand; None before the first), and how many states were `evicted` to where states lie, `restored` from
            there, `expired`, or `lost` with a process that was killed.
        """
        with self._lock:
            latencies = list(self._latencies)
            percentiles = np.percentile(latencies, (50, 95, 99)).tolist() if latencies else [None] * 3
            return {
                "turns": self._counts["turns"],
                "failures": self._counts["failures"],
                "waiting": len(self._queue),
                "live": len(self._store.live),
                "batches": dict(sorted(self._batches.items())),
                "latency": dict(zip(("p50", "p95", "p99"), percentiles)),
                **{name: self._store.counts[name] for name in ("evicted", "restored", "expired", "lost")},
            }

    def close(self) -> None:
        """Score the turns that wait, write all conversations to disk, and take no more."""
        self._queue.close()
        self._worker.join()
        self._store.save()

    def _work(self) -> None:
        while batch := self._queue.next_batch():
            # From here on they cannot be cancelled; those that were are not scored.
            batch = [one for one in batch if one.answer.running() or one.answer.set_running_or_notify_cancel()]
            try:
                self._score(batch)
            except Exception as error:
                # Nothing may stop the worker, on which all conversations wait.
                for turn in batch:
                    if not turn.answer.done() and turn not in self._queue:
                        self._fail(turn, error)

    def _score(self, batch: list[WaitingTurn]) -> None:
        """Answer each turn of a batch, of conversations that differ."""
        began = time.perf_counter()
        with contextlib.ExitStack() as everything:
            opened = []
            # In one order everywhere, so that processes that share conversations do not wait for each other.
            for turn in sorted(batch, key=lambda turn: turn.conversation):
                turn.answer.stages["wait"] = began - turn.queued
                held = everything.enter_context(contextlib.ExitStack())
                try:
                    if (known := self._answered_before(turn)) is not None:
                        turn.answer.set_result(known)
                        continue
                    cache = held.enter_context(self._store.conversation(turn.conversation, reset=turn.anew))
                    opened.append((turn, held, cache, start_after(cache, turn.start)))
                except ConversationInUse as error:
                    self._try_later(turn, error)
                except Exception as error:
                    held.__exit__(type(error), error, error.__traceback__)
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
        self._report(lambda observer: observer.batch(size))

    def _answered_before(self, turn: WaitingTurn) -> TurnEmotion | None:
        """The turn that a request repeats, by its key; also where it would begin the conversation again."""
        if turn.retry_key is None:
            return None
        try:
            with self._store.conversation(turn.conversation) as cache:
                return answered_before(cache, turn.retry_key)
        except (ValueError, TypeError):  # a state that cannot be read has no turns
            return None

    def _try_later(self, turn: WaitingTurn, error: ConversationInUse) -> None:
        """Let a turn wait on, first of its conversation; others are scored meanwhile."""
        if time.perf_counter() - turn.began > _BUSY_SECONDS:
            self._fail(turn, error)
        else:
            self._queue.put_back(turn)

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
        """Note a turn in its conversation, let go of that, and answer; its batch began at `began`."""
        try:
            with held:
                if isinstance(result, Exception):
                    raise result
                answer = self._scorer.turn(
                    result,
                    turn_index=int(cache.turns.sum()) - 1,
                    speaker=turn.speaker,
                    start=start,
                    seconds=len(turn.waveform) / self._scorer.sampling_rate,
                    latency=time.perf_counter() - turn.began,
                    settings=turn.settings,
                )
                if cache.notes.get(LOST):
                    answer = replace(answer, history_lost=True)
                remember(cache, answer, turn.retry_key)
                turns = history_of(cache) if self._observers else []
        except Exception as error:
            self._fail(turn, error)
            return
        stages = turn.answer.stages
        stages["store"] = time.perf_counter() - began - stages["forward"]
        with self._lock:
            self._counts["turns"] += 1
            self._latencies.append(answer.latency)
        self._report(lambda observer: observer.answered(turn.conversation, turns, stages))
        turn.answer.set_result(answer)

    def _score_together(self, opened: list[tuple[WaitingTurn, ConversationMemoryCache]]) -> list[Any]:
        """The `ScoredTurn` of each turn, or its error; if a batch fails, each is scored alone, to see whose it was."""
        turns, caches = zip(*opened)
        lengths = {len(turn.waveform) for turn in turns} if self._scorer.model.tower_mixes_padding else set()
        if len(lengths) > 1:
            of_length = {n: [one for one in opened if len(one[0].waveform) == n] for n in lengths}
            scored = {n: iter(self._score_together(some)) for n, some in of_length.items()}
            return [next(scored[len(turn.waveform)]) for turn in turns]
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

    def _report(self, to: Callable[[PoolObserver], None]) -> None:
        for observer in self._observers:
            try:
                to(observer)
            except Exception:  # turns are answered whoever looks on
                logger.exception("An observer of the pool failed.")
