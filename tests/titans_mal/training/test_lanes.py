"""Which turns each step takes."""

import pytest

from titans_mal.training.lanes import LaneSampler


LENGTHS = [3, 9, 1, 5, 16, 2, 7]
CONVERSATIONS = [list(range(sum(LENGTHS[:i]), sum(LENGTHS[: i + 1]))) for i in range(len(LENGTHS))]


def sampler(**how) -> LaneSampler:
    return LaneSampler(CONVERSATIONS, **{"window": 4, "lanes": 2, "batches": 2, "seed": 3} | how)


def epochs(sampler: LaneSampler, number: int) -> list:
    scored = []
    for epoch in range(number):
        sampler.epoch = epoch
        scored += sampler
    return scored


def test_every_conversation_is_processed_completely_in_order_by_one_lane():
    by_lane: dict[int, list] = {}
    for batch in epochs(sampler(), 12):
        for turn in batch:
            by_lane.setdefault(turn.lane, []).append(turn)
    assert sorted(by_lane) == [0, 1, 2, 3]
    starts = {rows[0]: rows for rows in CONVERSATIONS}
    for turns in by_lane.values():
        while turns:
            rows = starts[turns[0].row][: len(turns)]  # the last one may not be at its end
            assert [turn.row for turn in turns[: len(rows)]] == rows
            assert [turn.begins for turn in turns[: len(rows)]] == [True] + [False] * (len(rows) - 1)
            turns = turns[len(rows) :]


def test_all_conversations_come_before_one_comes_again():
    begun = [turn.row for batch in epochs(sampler(), 12) for turn in batch if turn.begins]
    first, second = begun[: len(LENGTHS)], begun[len(LENGTHS) : 2 * len(LENGTHS)]
    assert sorted(first) == sorted(second) == [rows[0] for rows in CONVERSATIONS]
    assert first != second


def test_a_turn_says_how_often_its_conversation_came_before():
    visits: dict[int, list[int]] = {}
    for batch in epochs(sampler(), 12):
        for turn in batch:
            visits.setdefault(turn.row, []).append(turn.visit)
    for seen in visits.values():
        assert seen == list(range(len(seen)))


def test_no_lane_is_ever_idle_and_none_takes_two_conversations_in_a_step():
    for batch in epochs(sampler(), 6):
        lanes = [turn.lane for turn in batch]
        assert sorted(set(lanes)) in ([0, 1], [2, 3])
        assert max(map(lanes.count, lanes)) <= 4
        assert sum(turn.begins for turn in batch) <= 2


def test_an_epoch_has_as_many_steps_as_windows_fill():
    windows = 1 + 3 + 1 + 2 + 4 + 1 + 2
    assert sampler().steps_per_epoch == -(-windows // 4)
    assert len(sampler()) == len(list(sampler())) == 2 * sampler().steps_per_epoch


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_what_one_process_accumulates(processes):
    alone = epochs(sampler(lanes=1, batches=4), 5)
    shared = [
        epochs(sampler(lanes=1, batches=4, process_index=i, num_processes=processes), 5) for i in range(processes)
    ]
    assert [batch for group in zip(*shared) for batch in group] == alone


def test_lanes_continue_across_epochs():
    scored = epochs(sampler(), 6)
    at = sampler()
    at.epoch = 4
    assert list(at) == scored[4 * len(at) : 5 * len(at)]
    # A window that is not the first of its conversation stands at the beginning of some epoch.
    firsts = [scored[epoch * len(at)][0] for epoch in range(1, 6)]
    assert not all(turn.begins for turn in firsts)


def test_the_order_depends_on_the_seed():
    assert epochs(sampler(), 2) == epochs(sampler(), 2)
    assert epochs(sampler(), 2) != epochs(sampler(seed=4), 2)
