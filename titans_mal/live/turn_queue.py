"""Turns of many conversations that wait to be scored, and which of them make the next batch."""

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
    """A pool takes no turn now."""


class TurnFuture(Future[TurnEmotion]):
    """The answer to a turn that waits.

    Attributes:
        stages: seconds that the turn spent so far, by stage: "detect" (in a stream), "decode", "wait", "forward" and
            "store" (reading and writing the states of its batch).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, float] = {}


@dataclass(eq=False)
class WaitingTurn:
    """A turn that waits to be scored; times are of `time.perf_counter`."""

    conversation: str
    waveform: np.ndarray
    speaker: str | None
    start: float | None
    anew: bool
    settings: LabelSettings
    began: float
    retry_key: str | None = None
    queued: float = field(default_factory=time.perf_counter)
    answer: TurnFuture = field(default_factory=TurnFuture)


class TurnQueue:
    """A queue with bounds that hands out batches: the first turn that waits of each of several conversations.

    A batch is handed out when it is full, or when its first turn has waited long enough: as long as `max_wait_ms`
    while turns come so often that another one is expected within that time, and not at all while they do not.

    Args:
        max_batch: turns in a batch.
        max_wait_ms: milliseconds that a turn waits for others to fill its batch, at most.
        max_waiting: turns that may wait.
        max_waiting_megabytes: of their audio; one turn alone may always wait.

    Raises:
        ValueError: for a bound out of its range.
    """

    # How much of the mean time between two turns the latest one is.
    _NEWEST = 0.2

    def __init__(self, *, max_batch: int, max_wait_ms: float, max_waiting: int, max_waiting_megabytes: float):
        if max_batch < 1 or max_waiting < 1 or not max_wait_ms >= 0 or not max_waiting_megabytes > 0:
            raise ValueError(
                "max_batch and max_waiting are at least 1, max_wait_ms at least 0 and max_waiting_megabytes above 0, "
                f"got {max_batch}, {max_waiting}, {max_wait_ms} and {max_waiting_megabytes}."
            )
        self._max_batch, self._max_wait, self._max_waiting = max_batch, max_wait_ms / 1000, max_waiting
        self._max_bytes = max_waiting_megabytes * 1_000_000
        self._turns: deque[WaitingTurn] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        # Before a second turn has come, another one is expected.
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
        """Seconds that a turn waits for others, as turns come now."""
        return self._max_wait if self._gap < self._max_wait else 0.0

    def put(self, turn: WaitingTurn) -> int:
        """Let a turn wait; how many do now.

        Raises:
            PoolError: if the queue is closed or full.
        """
        with self._changed:
            if self._is_closed:
                raise PoolError("The pool is closed.")
            if len(self._turns) >= self._max_waiting:
                raise PoolError(f"{len(self._turns)} turns wait already, which is as many as may.")
            waiting = sum(one.waveform.nbytes for one in self._turns)
            if self._turns and waiting + turn.waveform.nbytes > self._max_bytes:
                raise PoolError(f"Turns of {waiting / 1e6:.0f} MB wait already, which is as much as may.")
            self._note_arrival(turn.queued)
            self._turns.append(turn)
            self._changed.notify()
            return len(self._turns)

    def put_back(self, turn: WaitingTurn) -> None:
        """Let a turn wait on, first of its conversation."""
        with self._changed:
            self._turns.appendleft(turn)

    def close(self) -> None:
        """Take no more turns; those that wait are handed out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def next_batch(self) -> list[WaitingTurn]:
        """Wait for a batch; none when the queue is closed and empty."""
        with self._changed:
            while not self._turns and not self._is_closed:
                self._changed.wait()
            while self._turns and not self._is_closed:
                left = self._turns[0].began + self.wait - time.perf_counter()
                if left <= 0 or len({turn.conversation for turn in self._turns}) >= self._max_batch:
                    break
                self._changed.wait(left)
            chosen: dict[str, WaitingTurn] = {}
            for turn in self._turns:
                if len(chosen) < self._max_batch:
                    chosen.setdefault(turn.conversation, turn)
            batch = list(chosen.values())
            self._turns = deque(turn for turn in self._turns if turn not in batch)
            return batch

    def _note_arrival(self, now: float) -> None:
        if self._last is not None:
            # A long silence is soon forgotten.
            gap = min(max(0.0, now - self._last), 10 * self._max_wait)
            self._gap += self._NEWEST * (gap - self._gap)
        self._last = now
