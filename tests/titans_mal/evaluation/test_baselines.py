"""The baselines without memory, against their definitions."""

import itertools

import numpy as np
import pytest
from scipy.special import softmax

from titans_mal.evaluation.baselines import decode_dialogues, emotion_transitions, speaker_centred, speaker_normalised


CONVERSATIONS, SPEAKERS = ["c"] * 6 + ["d"] * 2, ["A", "B", "A", "A", "B", "A", "A", "A"]


def test_speaker_centring_is_that_of_the_readouts_input():
    """By its definition on the readout's input, with a weight and a bias."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((3, 16)), rng.standard_normal(3)
    hidden, training = rng.standard_normal((8, 16)), 2 + rng.standard_normal((50, 16))
    expected = []
    for row, speaker in enumerate(zip(CONVERSATIONS, SPEAKERS)):
        before = [hidden[i] for i in range(row) if (CONVERSATIONS[i], SPEAKERS[i]) == speaker]
        n = len(before)
        centred = hidden[row] - n / (n + 2) * (np.mean(before, 0) - training.mean(0)) if n else hidden[row]
        expected.append(weight @ centred + bias)
    found = speaker_centred(hidden @ weight.T + bias, CONVERSATIONS, SPEAKERS, (training @ weight.T + bias).mean(0))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_transitions_are_counted_within_conversations():
    prior, transitions = emotion_transitions([0, 1, 1, -1, 0, 1, 0], ["c", "c", "c", "c", "c", "d", "d"], 2)
    # With one more of each: 0 three times, 1 three times; 0-1, 1-1 in "c", 1-0 in "d", nothing across the unknown.
    np.testing.assert_allclose(prior, [4 / 8, 4 / 8])
    np.testing.assert_allclose(transitions, [[1 / 3, 2 / 3], [2 / 4, 2 / 4]])


def test_without_evidence_a_label_follows_as_often_as_it_occurs():
    """For rare labels, and for one that the training split lacks: else it would be recognised for want of counts."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, size=5000, p=[0.75, 0.248, 0.002, 0.0])
    prior, transitions = emotion_transitions(labels, ["c"] * 5000, 4)
    assert 3 not in labels
    assert 3 < (labels == 2).sum() < 30
    ratios = np.log(transitions / prior)
    assert np.abs(ratios).max() < 1
    np.testing.assert_allclose(ratios[3], 0, atol=1e-9)
    np.testing.assert_allclose(ratios[:2, :2], 0, atol=0.1)


def test_dialogues_are_decoded_as_by_going_through_all_paths():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((8, 3))
    prior, transitions = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=3)
    decoded = np.exp(decode_dialogues(logits, CONVERSATIONS, prior, transitions))
    likelihood = softmax(logits, -1) / prior
    for turn in range(6):
        totals = np.zeros(3)
        for path in itertools.product(range(3), repeat=turn + 1):
            chance = prior[path[0]] * np.prod([transitions[a, b] for a, b in itertools.pairwise(path)])
            totals[path[-1]] += chance * np.prod([likelihood[i, label] for i, label in enumerate(path)])
        np.testing.assert_allclose(decoded[turn], totals / totals.sum(), atol=1e-12)
    # A dialogue's first turn is as the host has it, and no dialogue knows of the other.
    np.testing.assert_allclose(decoded[[0, 6]], softmax(logits, -1)[[0, 6]], atol=1e-12)
    np.testing.assert_allclose(decoded[6:], np.exp(decode_dialogues(logits[6:], ["d"] * 2, prior, transitions)))


def test_baselines_do_not_use_later_turns():
    rng = np.random.default_rng(2)
    logits, prior, transitions = rng.standard_normal((8, 3)), np.full(3, 1 / 3), rng.dirichlet(np.ones(3), size=3)
    for baseline in (
        lambda x, n: decode_dialogues(x, CONVERSATIONS[:n], prior, transitions),
        lambda x, n: speaker_centred(x, CONVERSATIONS[:n], SPEAKERS[:n], np.ones(3)),
    ):
        np.testing.assert_array_equal(baseline(logits[:4], 4), baseline(logits, 8)[:4])


def test_uniform_transitions_change_nothing():
    logits = np.random.default_rng(3).standard_normal((8, 3))
    prior = np.array([0.2, 0.5, 0.3])
    decoded = decode_dialogues(logits, CONVERSATIONS, prior, np.tile(prior, (3, 1)))
    assert np.exp(decoded) == pytest.approx(softmax(logits, -1))


def test_transitions_help_where_emotions_stay():
    rng = np.random.default_rng(4)
    labels = [0]
    for _ in range(1999):
        labels.append(labels[-1] if rng.uniform() < 0.9 else int(rng.integers(3)))
    labels = np.array(labels)
    logits = np.eye(3)[labels] + rng.standard_normal((2000, 3))
    chances = emotion_transitions(labels[:1000], ["train"] * 1000, 3)
    decoded = decode_dialogues(logits[1000:], ["test"] * 1000, *chances)
    alone, together = ((scores.argmax(-1) == labels[1000:]).mean() for scores in (logits[1000:], decoded))
    assert together > alone + 0.1


def test_logits_are_normalised_by_the_turns_so_far():
    """Centred logits +-1, then +-3: mean and square with one more turn of 0 and 1, (1, 1) / 2 and (4, 11) / 3."""
    logits = np.array([[2.0, 0.0], [10.0, 4.0], [1.0, 3.0]])
    scores = speaker_normalised(logits, ["a", "a", "b"], ["x", "x", "x"])
    first = (1 - 1 / 2) / np.sqrt(2 / 2 - 1 / 4)
    second = (3 - 4 / 3) / np.sqrt(11 / 3 - 16 / 9)
    assert scores.tolist() == [
        pytest.approx([first, -first]), pytest.approx([second, -second]), pytest.approx([-first, first])
    ]  # fmt: skip
