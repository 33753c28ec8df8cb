"""The bounds against closed forms, brute force and one another."""

import itertools

import numpy as np
import pytest

from titans_mal.data.synthetic.bayes_bound import BayesClassifier, best_accuracy
from titans_mal.data.synthetic.suites import (
    EMOTION_CHANGES,
    SPEAKER_SPREAD,
    SUITES,
    TURN_SCATTER,
    baseline,
    carry_over,
    emotional_start,
    null,
)


@pytest.mark.parametrize("name", SUITES)
def test_history_never_harms_and_is_uninformative_for_new_speakers(name):
    suite = SUITES[name]()
    alone, with_history = (best_accuracy(suite, uses_history=uses, conversations=150) for uses in (False, True))
    if name == "null":
        assert with_history == alone
    else:
        assert with_history > alone + 0.2


def test_the_utterance_alone_against_its_closed_form():
    """Given the emotion, the pitch and level of a random speaker are normal."""
    spread = np.hypot(SPEAKER_SPREAD, TURN_SCATTER)
    classifier = BayesClassifier(null(), uses_history=False)
    for number in range(10):
        turns = null().draw(np.random.default_rng(number)).turns
        scored = np.array([(turn.pitch, turn.level) for turn in turns])
        weights = np.exp(-0.5 * (((scored[:, None] - EMOTION_CHANGES) / spread) ** 2).sum(-1))
        np.testing.assert_allclose(classifier.predict(turns), weights / weights.sum(-1, keepdims=True), atol=2e-3)


def test_one_speaker_without_introduction_against_all_sequences_of_emotions():
    """The posterior of the last emotion, summed over every sequence of emotions with normals in closed form."""
    suite = emotional_start(turns=3, drift=0.0)
    script = suite.draw(np.random.default_rng(1))
    turns = [turn.__class__(0, turn.emotion, turn.pitch, turn.level) for turn in script.turns]
    scored = np.array([(turn.pitch, turn.level) for turn in turns])
    # Turns of one speaker: the covariance of a sum of the common usual voice and of each turn's own scatter.
    weights = np.zeros(4)
    for emotions in itertools.product(range(4), repeat=3):
        density = 1.0
        for axis in (0, 1):
            covariance = SPEAKER_SPREAD[axis] ** 2 + TURN_SCATTER[axis] ** 2 * np.eye(3)
            error = scored[:, axis] - EMOTION_CHANGES[list(emotions), axis]
            density *= np.exp(-0.5 * error @ np.linalg.solve(covariance, error))
        weights[emotions[-1]] += density
    np.testing.assert_allclose(BayesClassifier(suite).predict(turns)[-1], weights / weights.sum(), atol=2e-3)


def test_a_carried_emotion_against_all_sequences_of_emotions():
    suite = carry_over(turns=5, stay=0.7)
    turns = suite.draw(np.random.default_rng(3)).turns
    assert any(turn.is_whispered for turn in turns)
    weights = np.zeros(4)
    for emotions in itertools.product(range(4), repeat=5):
        density = 1.0
        for before, after in itertools.pairwise(emotions):
            density *= suite.next_emotion_probabilities()[before, after]
        for turn, emotion in zip(turns, emotions):
            if not turn.is_whispered:
                error = (np.array([turn.pitch, turn.level]) - EMOTION_CHANGES[emotion]) / TURN_SCATTER
                density *= np.exp(-0.5 * (error**2).sum())
        weights[emotions[-1]] += density
    np.testing.assert_allclose(BayesClassifier(suite).predict(turns)[-1], weights / weights.sum(), atol=1e-6)


@pytest.mark.slow
def test_harder_suites_have_a_lower_bound():
    far, near = (best_accuracy(baseline(spread=s), uses_history=False, conversations=200) for s in (2.0, 0.5))
    assert far < near - 0.1
    fast, slow = (best_accuracy(emotional_start(drift=d), conversations=100) for d in (0.4, 0.05))
    assert fast < slow - 0.1


def test_the_utterance_alone_does_not_determine_the_emotion():
    assert 0.54 < best_accuracy(baseline(), uses_history=False) < 0.58
