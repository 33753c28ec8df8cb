"""Queue of turns: when a batch is complete, and how long a turn waits for others."""

from __future__ import annotations

import time

import numpy as np
import pytest

from titans_mal.live.label_settings import LabelSettings
from titans_mal.live.turn_queue import PoolError, TurnQueue, WaitingTurn


def make_queue(**limits) -> TurnQueue:
    given = {"max_batch": 3, "max_wait_ms": 100, "max_waiting": 8, "max_waiting_megabytes": 1} | limits
    return TurnQueue(**given)


def turn(conversation: str, queued: float = 0.0, samples: int = 10, **fields) -> WaitingTurn:
    """A turn whose decoding took five seconds."""
    waveform = np.zeros(samples, np.float32)
    return WaitingTurn(conversation, LabelSettings(), began=queued - 5.0, waveform=waveform, queued=queued, **fields)


def batch_at(queue: TurnQueue, now: float) -> tuple[str, float | None]:
    """The conversations of the batch at a time, and the seconds until there may be one."""
    batch, seconds = queue._batch_at(now)
    return "".join(turn.conversation for turn in batch), seconds


def test_a_turn_waits_only_while_turns_arrive_often():
    queue = make_queue()
    assert queue.wait == pytest.approx(0.1)  # until the rate is known
    for number in range(3):
        queue.put(turn("a", queued=0.02 * number))
    assert queue.wait == pytest.approx(0.1)
    queue.put(turn("a", queued=60.0))
    assert queue.wait == 0.0
    for number in range(4):
        queue.put(turn("b", queued=60.0 + 0.01 * number))
    assert queue.wait == pytest.approx(0.1)


def test_a_turn_waits_for_others_from_when_it_is_decoded():
    queue = make_queue()
    assert batch_at(queue, 10.0) == ("", None)
    queue.put(turn("a", queued=10.0))
    assert batch_at(queue, 10.0) == ("", pytest.approx(0.1))
    queue.put(turn("b", queued=10.06))
    assert batch_at(queue, 10.06) == ("", pytest.approx(0.04))  # the first turn waits longest
    assert batch_at(queue, 10.11) == ("ab", 0.0)
    queue.put(turn("c", queued=10.07))
    assert batch_at(queue, 10.07) == ("abc", 0.0)  # it is full


def test_a_turn_does_not_wait_where_none_is_expected_nor_after_the_end():
    queue = make_queue()
    for queued in (0.0, 60.0):
        queue.put(turn("a", queued=queued))
    assert batch_at(queue, 0.0) == ("a", 0.0)
    queue = make_queue()
    queue.put(turn("a", queued=10.0))
    queue.close()
    assert batch_at(queue, 10.0) == ("a", 0.0)


def test_a_turn_that_is_put_back_waits_for_its_time_and_for_no_others():
    queue = make_queue()
    queue.put(turn("a", queued=10.0, not_before=11.0))
    assert batch_at(queue, 10.4) == ("", pytest.approx(0.6))
    queue.put(turn("b", queued=10.4))
    assert batch_at(queue, 10.4) == ("", pytest.approx(0.1))
    assert batch_at(queue, 10.6) == ("b", 0.0)
    assert batch_at(queue, 11.0) == ("ab", 0.0)


def test_a_batch_is_the_first_turn_of_each_conversation():
    queue = make_queue(max_batch=2)
    for name in ("a", "a", "b", "c"):
        queue.put(turn(name))
    batches = [[one.conversation for one in queue.next_batch()] for _ in range(2)]
    assert batches == [["a", "b"], ["a", "c"]]
    queue.close()
    assert queue.next_batch() == []
    with pytest.raises(PoolError, match="closed"):
        queue.put(turn("a"))


def test_a_turn_that_is_put_back_holds_up_no_other_conversation():
    """As a conversation that another server uses: its turns stay in order, and are not tried without a pause."""
    queue = make_queue()
    first = turn("busy", samples=1)
    for one in (first, turn("busy", samples=2), turn("a")):
        queue.put(one)
    assert [one.conversation for one in queue.next_batch()] == ["busy", "a"]
    queue.put_back(first, 0.05)
    queue.put(turn("b"))
    assert [one.conversation for one in queue.next_batch()] == ["b"]
    queue.close()  # what waits is returned all the same
    for samples in (1, 2):
        (again,) = queue.next_batch()
        assert len(again.waveform) == samples
        assert time.perf_counter() >= first.not_before
    assert queue.next_batch() == []


def test_the_queue_is_bounded_by_turns_and_by_bytes():
    queue = make_queue(max_waiting=2)
    queue.put(turn("a"))
    assert queue.put(turn("b")) == 2
    with pytest.raises(PoolError, match="2 turns are waiting"):
        queue.put(turn("c"))
    queue = make_queue()
    queue.put(turn("a", samples=400_000))  # a single turn is always accepted
    with pytest.raises(PoolError, match="turns of 2 MB are waiting"):
        queue.put(turn("b"))
