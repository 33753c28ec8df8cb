"""Summaries of conversations, against values counted by hand."""

import math

import pytest

from titans_mal.live import TurnEmotion
from titans_mal.live.summary import LabelChange, LabelRun, rolling_mean, summarize


def turn(index, speaker, start, end, label, score=0.8, **values):
    other = "sad" if label == "angry" else "angry"
    scores = {} if label is None else {label: score, other: 1 - score}
    score = None if label is None else score
    return TurnEmotion(index, speaker, start, end, label, score, scores, 0.5, 0.01, values=values)


TURNS = [
    turn(0, "A", 0.0, 2.0, "sad", valence=0.5),
    turn(1, "B", 2.0, 3.0, None),
    turn(2, "A", 3.0, 4.0, "angry", valence=-0.5),
    turn(3, "A", 4.0, 5.0, "angry", valence=-0.5),
]


def test_shares_runs_and_changes_by_speaker():
    a, b = summarize(TURNS, time_constant=10.0)
    assert (a.speaker, a.turns, a.seconds) == ("A", 3, 4.0)
    assert a.shares == pytest.approx({"sad": 1 / 3, "angry": 2 / 3})
    assert a.shares_of_time == pytest.approx({"sad": 0.5, "angry": 0.5})
    assert a.longest_run == LabelRun("angry", 2, 3.0, 5.0)
    assert a.last_change == LabelChange("sad", "angry", 3.0)
    assert (b.turns, b.shares, b.mood, b.longest_run, b.last_change) == (1, {}, {}, None, None)


def test_the_mood_is_an_exponential_mean():
    (a, _) = summarize(TURNS, time_constant=10.0)
    weights = [1 - math.exp(-2 / 10), 1 - math.exp(-1 / 10)]
    mean = 0.2
    for weight in weights:
        mean += weight * (0.8 - mean)
    assert a.mood["angry"] == pytest.approx(mean)
    assert sum(a.mood.values()) == pytest.approx(1.0)
    assert [time for time, _, _ in a.dimensions["valence"]] == [2.0, 4.0, 5.0]
    assert a.dimensions["valence"][1][2] == pytest.approx(0.5 - weights[0])
    assert rolling_mean([0.0, 1e9], [0.0, 1.0], 1.0) == [0.0, 1.0]
    assert rolling_mean([5.0, 4.0], [0.0, 1.0], 1.0) == [0.0, 0.0]


def test_nothing_and_what_is_no_time():
    assert summarize([]) == []
    with pytest.raises(ValueError, match="above 0, got 0"):
        summarize(TURNS, time_constant=0)
