"""Queue of turns of many conversations, and the choice of the next batch."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from .label_settings import LabelSettings
from .turns import TurnEmotion


class PoolError(RuntimeError):
    """The pool does not accept turns."""


class TurnFuture(Future[TurnEmotion]):
    """The future result of a waiting turn.

    Attributes:
        stages: seconds that the turn has spent in each stage: "detect" (in a stream), "decode", "wait", "forward" and
            "store" (reading and writing the states of its batch).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, float] = {}


@dataclass(eq=False)
class WaitingTurn:
    """A waiting turn; times are of `time.perf_counter`. The waveform is empty until it is loaded."""

    conversation: str
    settings: LabelSettings
    began: float  # before it was loaded
    speaker: str | None = None
    start: float | None = None
    reset: bool = False
    retry_key: str | None = None
    person: str | None = None
    gap: float = 0.0  # seconds after the previous turn, where there is no start
    not_before: float = 0.0  # a turn of a conversation that is in use elsewhere is tried again later
    waveform: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    queued: float = 0.0  # after it was loaded; from then on it waits for others
    answer: TurnFuture = field(default_factory=TurnFuture)


class TurnQueue:
    """A bounded queue that returns batches: the first waiting turn of each of several conversations.

    A batch is returned when it is full, or when its first turn has waited long enough: `max_wait_ms` if turns arrive
    so often that another one is expected within that time, and not at all otherwise.

    Args:
        max_batch: maximal number of turns in a batch.
        max_wait_ms: maximal time, in milliseconds, that a turn waits for others to fill its batch.
        max_waiting: maximal number of waiting turns.
        max_waiting_megabytes: maximal size of their audio; a single turn is always accepted.

    Raises:
        ValueError: for a value out of range.
    """

    # Weight of the latest interval in the mean time between turns.
    _NEWEST = 0.2

    def __init__(self, *, max_batch: int, max_wait_ms: float, max_waiting: int, max_waiting_megabytes: float):
        if max_batch < 1 or max_waiting < 1 or not max_wait_ms >= 0 or not max_waiting_megabytes > 0:
            raise ValueError(
                "max_batch and max_waiting must be at least 1, max_wait_ms at least 0, max_waiting_megabytes above 0, "
                f"got {max_batch}, {max_waiting}, {max_wait_ms} and {max_waiting_megabytes}."
            )
        self._max_batch, self._max_wait, self._max_waiting = max_batch, max_wait_ms / 1000, max_waiting
        self._max_bytes = max_waiting_megabytes * 1_000_000
        self._turns: deque[WaitingTurn] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        # Until a second turn has arrived, another one is expected.
        self._gap = 0.0
        self._last: float | None = None

    def __len__(self) -> int:
        return len(self._turns)

    def __contains__(self, turn: WaitingTurn) -> bool:
        with self._changed:
            return turn in self._turns

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def wait(self) -> float:
        """Seconds that a turn waits for others, at the present rate of turns."""
        return self._max_wait if self._gap < self._max_wait else 0.0

    def put(self, *turns: WaitingTurn) -> int:
        """Queue turns, all or none of them; returns the number of waiting turns.

        Raises:
            PoolError: if the queue is closed or full.
        """
        with self._changed:
            if self._is_closed:
                raise PoolError("The pool is closed.")
            if self._turns and len(self._turns) + len(turns) > self._max_waiting:
                raise PoolError(f"The queue is full: {len(self._turns)} turns are waiting.")
            waiting = sum(one.waveform.nbytes for one in self._turns)
            if self._turns and waiting + sum(turn.waveform.nbytes for turn in turns) > self._max_bytes:
                raise PoolError(f"The queue is full: turns of {waiting / 1e6:.0f} MB are waiting.")
            self._note_arrival(turns[0].queued)
            self._turns.extend(turns)
            self._changed.notify()
            return len(self._turns)

    def put_back(self, turn: WaitingTurn, seconds: float) -> None:
        """Put a turn back as the first of its conversation, which is not returned again for some seconds."""
        turn.not_before = time.perf_counter() + seconds
        with self._changed:
            self._turns.appendleft(turn)

    def close(self) -> None:
        """Accept no more turns; waiting turns are still returned."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def next_batch(self) -> list[WaitingTurn]:
        """Wait for a batch; empty when the queue is closed and empty."""
        with self._changed:
            while self._turns or not self._is_closed:
                batch, seconds = self._batch_at(time.perf_counter())
                if batch:
                    self._turns = deque(turn for turn in self._turns if turn not in batch)
                    return batch
                self._changed.wait(seconds)
            return []

    def _batch_at(self, now: float) -> tuple[list[WaitingTurn], float | None]:
        """The turns of the batch to return at a time; if there are none yet, the seconds until there may be.

        None instead of seconds: not before another turn arrives.
        """
        first = self._first_turns()
        ready = [turn for turn in first if turn.not_before <= now][: self._max_batch]
        if not ready:
            return [], min((turn.not_before - now for turn in first), default=None)
        left = ready[0].queued + self.wait - now
        is_complete = self._is_closed or len(ready) == self._max_batch or left <= 0
        return (ready, 0.0) if is_complete else ([], left)

    def _first_turns(self) -> list[WaitingTurn]:
        """The first waiting turn of each conversation."""
        first: dict[str, WaitingTurn] = {}
        for turn in self._turns:
            first.setdefault(turn.conversation, turn)
        return list(first.values())

    def _note_arrival(self, now: float) -> None:
        if self._last is not None:
            # Limits the effect of a long silence.
            gap = min(max(0.0, now - self._last), 10 * self._max_wait)
            self._gap += self._NEWEST * (gap - self._gap)
        self._last = now
