"""Metrics, intervals, tests and floors, against values that are known."""

import evaluate
import numpy as np
import pytest
from scipy import stats

from titans_mal.evaluation import emotion_metrics, statistics
from titans_mal.evaluation.baselines import speaker_normalised
from titans_mal.evaluation.emotion_metrics import EmotionMetrics
from titans_mal.evaluation.floors import copy_previous, majority
from titans_mal.evaluation.statistics import METRICS, confusions, difference, interval, mcnemar, metric_of


def test_metrics_by_hand():
    # Two of three "0" right, one of one "1" right, none of two "3", with one answer that names no label; no "2".
    scores = EmotionMetrics().compute(
        references=[0, 0, 0, 1, 3, 3, -1], predictions=[0, 0, 1, 1, 0, -1, 2], num_labels=4
    )
    assert scores["turns"] == 6
    assert scores["wa"] == pytest.approx(3 / 6)
    assert scores["recall"] == [pytest.approx(2 / 3), 1.0, None, 0.0]
    assert scores["ua"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    f1 = (2 * 2 / (3 + 3), 2 * 1 / (1 + 2), 0.0)
    assert scores["macro_f1"] == pytest.approx(sum(f1) / 3)
    assert scores["weighted_f1"] == pytest.approx((3 * f1[0] + 1 * f1[1]) / 6)
    assert scores["confusion"] == [[2, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 1]]


def test_evaluate_loads_the_module_by_its_path():
    metric = evaluate.load(emotion_metrics.__file__)
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    assert metric.compute()["wa"] == 0.5


@pytest.mark.parametrize(
    ("references", "predictions", "num_labels", "message"),
    [
        ([-1], [0], 2, "No turn is scored"),
        ([2], [0], 2, r"Labels must be -1 \(predictions only\) to 1, got 0..2"),
        ([0], [-2], 2, "Labels must be -1"),
    ],
)
def test_invalid_indices(references, predictions, num_labels, message):
    with pytest.raises(ValueError, match=message):
        EmotionMetrics().compute(references=references, predictions=predictions, num_labels=num_labels)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_confusions_are_those_of_scikit_learn(seed):
    """Intervals are computed from counts, values by scikit-learn."""
    rng = np.random.default_rng(seed)
    references, predictions = rng.integers(-1, 4, 40), rng.integers(-1, 5, 40)
    references[references == 2] = 0  # a label that does not occur
    counts = confusions(predictions, references, [f"c{i // 7}" for i in range(40)], 5)
    scores = EmotionMetrics().compute(predictions=predictions, references=references, num_labels=5)
    np.testing.assert_array_equal(counts.sum(0), scores["confusion"])
    for metric in METRICS:
        assert metric_of(metric, counts.sum(0)) == pytest.approx(scores[metric])
    with pytest.raises(ValueError, match="metric must be one of"):
        metric_of("accuracy", counts)


def test_intervals_draw_conversations_and_not_turns():
    """Ten conversations, each right throughout or wrong throughout: the turns are no more than ten."""
    references = np.zeros(1000, dtype=int)
    predictions = np.repeat([0, 1] * 5, 100)
    names = [str(i // 100) for i in range(1000)]
    low, high = interval(confusions(predictions, references, names, 2), "wa", resamples=2000, seed=0)
    # Of a binomial of ten trials, to the tenth that it can tell.
    expected = stats.binom(10, 0.5).ppf([0.025, 0.975]) / 10
    np.testing.assert_allclose([low, high], expected, atol=0.101)
    assert interval(confusions(predictions[:900], references[:900], names[:900], 2), "wa", resamples=9, seed=0) is None


def coverage(conversations: int) -> float:
    """Of 200 samples of a known accuracy, the share whose 95 % intervals hold it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        # Turns of a conversation are right or wrong together.
        predictions = (rng.uniform(size=conversations) > 0.7).astype(int).repeat(2)
        names = [str(i // 2) for i in range(2 * conversations)]
        counts = confusions(predictions, np.zeros(len(names), dtype=int), names, 2)
        low, high = interval(counts, "wa", resamples=200, seed=1)
        covered += low <= 0.7 <= high
    return covered / 200


def test_intervals_have_their_coverage():
    assert 0.88 <= coverage(40) <= 0.99


def test_intervals_of_few_conversations_are_too_narrow(monkeypatch):
    monkeypatch.setattr(statistics, "MIN_CONVERSATIONS", 2)
    assert coverage(5) < 0.88


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    references, names = np.zeros(200, dtype=int), [str(i // 4) for i in range(200)]
    hard = rng.uniform(size=200) < 0.5
    second = hard.astype(int)
    first = second.copy()
    first[np.flatnonzero(hard)[:20]] = 0  # right wherever the second is, and on twenty turns more
    counts = [confusions(predicted, references, names, 2) for predicted in (first, second)]
    value, (low, high) = difference(*counts, "wa", resamples=500, seed=0)
    assert value == pytest.approx(0.1)
    assert 0.0 <= low < value < high < 0.25
    # Unpaired intervals would overlap.
    ends = [interval(count, "wa", resamples=500, seed=0) for count in counts]
    assert ends[0][0] < ends[1][1]
    assert mcnemar(first == 0, second == 0) == {"better": 20, "worse": 0, "p": pytest.approx(2 * 0.5**20)}
    assert mcnemar(first == 0, first == 0)["p"] == 1.0


def test_floors():
    references = np.array([1, -1, 2, 0, 1])
    assert majority(references, 3) == 1
    # A's second turn copies its first; turns that are not scored have nothing to be copied; B of d is another one.
    copies = copy_previous(references, ["c", "c", "c", "c", "d"], ["A", "B", "A", "B", "B"], fallback=7)
    assert copies.tolist() == [7, 7, 1, 7, 7]


def test_a_speakers_usual_logits_are_subtracted():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    speakers = [str(i % 4) for i in range(400)]
    habits = 4 * rng.standard_normal((4, 3))  # a voice that always resembles one emotion
    logits = 3 * np.eye(3)[labels] + habits[np.arange(400) % 4] + 0.3 * rng.standard_normal((400, 3))
    scores = speaker_normalised(logits, ["c"] * 400, speakers)
    assert (logits.argmax(-1) == labels).mean() < 0.6
    assert (scores.argmax(-1)[40:] == labels[40:]).mean() > 0.95
    # A first turn keeps its order, and no turn knows of later ones.
    np.testing.assert_array_equal(scores[:4].argsort(-1), logits[:4].argsort(-1))
    np.testing.assert_array_equal(speaker_normalised(logits[:50], ["c"] * 50, speakers[:50]), scores[:50])
