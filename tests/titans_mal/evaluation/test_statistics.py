"""Counts, metrics and tests of significance by hand."""

import numpy as np
import pytest

from titans_mal.evaluation.statistics import (
    bootstrap_interval,
    confusions,
    difference,
    interval,
    mcnemar,
    metric_of,
    share_interval,
)


# Two labels: 3 of 4 turns of the first are right, 1 of 2 of the second; one answer names no label.
COUNTS = np.array([[3, 1, 0], [0, 1, 1]])


def test_turns_are_counted_by_conversation():
    counts = confusions(
        np.array([0, 1, -1, 0, 1]), np.array([0, 1, 1, -1, 0]), ["b", "a", "b", "c", "a"], num_labels=2
    )
    # "c" has no scored turn.
    assert counts.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wa", 4 / 6),
        ("ua", (3 / 4 + 1 / 2) / 2),
        # F1 = 2 right / (turns of the label + answers of it): 6/7 and 2/4.
        ("macro_f1", (6 / 7 + 2 / 4) / 2),
        ("weighted_f1", (4 * 6 / 7 + 2 * 2 / 4) / 6),
    ],
)
def test_metrics(name, value):
    assert metric_of(name, COUNTS) == pytest.approx(value)
    # A label that no turn has counts for nothing.
    absent = np.array([[3, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
    assert metric_of(name, absent) == pytest.approx(value)
    with pytest.raises(ValueError, match="metric must be one of"):
        metric_of("ba", COUNTS)


def test_mcnemar_is_the_binomial_test():
    """Of 5 turns that only one got right, 4 are the first's: p = 2 (1 + 5) / 2^5."""
    first = np.array([True] * 4 + [False] + [True, False])
    second = np.array([False] * 4 + [True] + [True, False])
    assert mcnemar(first, second) == {"better": 4, "worse": 1, "p": pytest.approx(0.375)}
    assert mcnemar(first, first) == {"better": 0, "worse": 0, "p": 1.0}


def test_intervals_need_ten_conversations_and_draw_them_whole():
    one_right = np.stack([COUNTS] * 9)
    assert interval(one_right, "wa", resamples=100, seed=0) is None
    # Conversations that are alike leave nothing to draw.
    same = interval(np.stack([COUNTS] * 10), "wa", resamples=100, seed=0)
    assert same == pytest.approx([4 / 6, 4 / 6])
    right, conversations = np.repeat([True, False], 50), [str(place // 10) for place in range(100)]
    low, high = share_interval(right, conversations, resamples=2000, seed=0)
    # The mean of 10 draws of 0 or 1: 0.5 +- 1.96 * sqrt(0.25 / 10).
    assert (low, high) == pytest.approx((0.2, 0.8), abs=0.06)


def test_a_difference_is_paired():
    rng = np.random.default_rng(0)
    first = rng.integers(1, 5, size=(12, 2, 3))
    value, ends = difference(first, first, "ua", resamples=100, seed=0)
    assert (value, ends) == (0.0, [0.0, 0.0])
    value, _ = difference(COUNTS[None], COUNTS[None, ::-1, [1, 0, 2]], "wa", resamples=100, seed=0)
    assert value == 0  # the labels exchanged in both


def test_the_statistic_is_given_drawn_conversations():
    seen = []

    def statistic(drawn):
        seen.append(drawn)
        return drawn.mean(-1)

    low, high = bootstrap_interval(10, statistic, resamples=100, seed=0)
    assert low < 4.5 < high
    assert all(drawn.shape[-1] == 10 and drawn.min() >= 0 and drawn.max() < 10 for drawn in seen)
