"""The numbers of a report by hand: by history, by group, and of two conditions."""

import numpy as np
import pytest

from titans_mal.evaluation.measures import (
    Turns,
    by_group,
    by_history,
    compare_predictions,
    confusion_and_recall,
    mean_by_history,
    measure,
)


BOOTSTRAP = {"resamples": 100, "seed": 0}
TURNS = Turns(
    conversations=["a", "a", "a", "b"],
    speakers=["x", "x", "y", "x"],
    references=np.array([0, 1, 1, -1]),
    labels=["calm", "glad", "sad"],
    depths=[0, 1, 0, 0],
    groups={"gender": ["f", "f", None, "m"], "language": [None] * 4},
)
PREDICTED = np.array([0, 1, 0, 2])


def test_metrics_of_scored_turns_alone():
    found = measure(PREDICTED, TURNS.references, TURNS.conversations, 3, **BOOTSTRAP)
    assert found["wa"] == {"value": pytest.approx(2 / 3), "interval": None}
    assert found["ua"]["value"] == pytest.approx((1 + 1 / 2) / 2)
    with pytest.raises(ValueError, match="No turn is scored"):
        measure(PREDICTED, np.full(4, -1), TURNS.conversations, 3, **BOOTSTRAP)


def test_recall_of_a_label_without_turns_is_unknown():
    found = confusion_and_recall(np.array([0, -1, 0, 2]), TURNS)
    assert found["recall"] == {"calm": 1.0, "glad": 0.0, "sad": None}
    assert found["confusion"] == [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]


def test_turns_are_split_by_the_speakers_history():
    assert by_history(PREDICTED, TURNS, **BOOTSTRAP) == {
        "0": {"turns": 2, "wa": 0.5, "interval": None},
        "1": {"turns": 1, "wa": 1.0, "interval": None},
    }
    assert mean_by_history({0: 0.2, 2: 0.4, 1: 0.9}, TURNS.depths) == {"0": pytest.approx(0.3), "1": 0.9}


def test_groups_without_a_scored_turn_are_left_out():
    found = by_group({"memory": PREDICTED, "reset": np.array([0, 0, 0, 0])}, TURNS)
    assert found == {
        "gender": {
            "f": {"turns": 2, "conditions": {"memory": {"wa": 1.0, "ua": 1.0}, "reset": {"wa": 0.5, "ua": 0.5}}}
        }
    }
    assert by_group({}, TURNS) == {}


def test_conditions_are_compared_on_the_turns_that_both_cover():
    turns = TURNS.only(np.array([True, False, True, True]))
    assert turns.scored.tolist() == [True, False, True, False]
    found = compare_predictions(
        PREDICTED, np.array([1, 0, 1, 0]), turns.references, turns.conversations, 3, **BOOTSTRAP
    )
    assert found["metrics"]["wa"] == {"value": 0.0, "interval": None}
    assert found["mcnemar"] == {"better": 1, "worse": 1, "p": 1.0}
