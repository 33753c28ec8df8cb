"""Bayes-optimal recognition of the emotions of a suite, from the utterance alone and with history.

The classifier knows how the suite is drawn, the speakers, and the exact pitch and level of each turn, so no model that
works on audio can do better. It does not know the speakers' usual pitch and level, nor the emotions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from .suites import EMOTION_CHANGES, EMOTIONS, NEUTRAL, SPEAKER_SPREAD, TURN_SCATTER, Script, ScriptedTurn, Suite


# Grid of a speaker's usual pitch and level, in steps of half the scatter of a turn.
_GRID_REACH, _GRID_STEP = 4.5, 0.5


class BayesClassifier:
    """Forward filter over the speakers' usual voices and the emotion (a hidden Markov model: Rabiner 1989, III.A).

    If voices differ, each speaker has a belief on a grid of usual pitch and level; if emotions persist, the
    conversation has a belief over the emotion. Exact up to the grid, since voices are equal where emotions persist.

    Args:
        suite: how the conversations are drawn.
        uses_history: False resets all beliefs before each turn.
    """

    def __init__(self, suite: Suite, *, uses_history: bool = True):
        self.suite = suite
        self.uses_history = uses_history
        spread = suite.spread * SPEAKER_SPREAD
        # A random walk widens the prior; the grid allows for a few steps.
        self._axes = [
            np.arange(-_GRID_REACH * s, _GRID_REACH * s + step, step)
            for s, step in zip(np.hypot(spread, 2 * suite.drift * SPEAKER_SPREAD), _GRID_STEP * TURN_SCATTER)
        ]
        pitch, level = (np.exp(-0.5 * (axis / (s or 1.0)) ** 2) for axis, s in zip(self._axes, spread))
        self._prior = np.outer(pitch, level) / (pitch.sum() * level.sum())

    def predict(self, turns: Sequence[ScriptedTurn]) -> np.ndarray:
        """(turns, emotions), the probability of each emotion given the turn and the earlier ones."""
        beliefs: dict[int, np.ndarray] = {}
        expected, predicted = np.full(len(EMOTIONS), 1 / len(EMOTIONS)), []
        for index, turn in enumerate(turns):
            if not self.uses_history:
                beliefs, expected = {}, np.full(len(EMOTIONS), 1 / len(EMOTIONS))
            elif index:
                expected = expected @ self.suite.next_emotion_probabilities()
            if turn.is_introduction and self.uses_history:
                expected = np.eye(len(EMOTIONS))[NEUTRAL]
            belief = self._belief(beliefs, turn.speaker)
            if turn.is_whispered:
                # Pitch and level are those of a neutral voice, whatever the emotion.
                beliefs[turn.speaker] = _normalised(belief * self._likelihood(turn, NEUTRAL))
            else:
                joint = np.stack([belief * self._likelihood(turn, e) for e in range(len(EMOTIONS))])
                joint *= expected[:, None, None]
                expected = _normalised(joint.sum((1, 2)))
                beliefs[turn.speaker] = _normalised(joint.sum(0))
            predicted.append(expected)
        return np.stack(predicted)

    def _belief(self, beliefs: dict[int, np.ndarray], speaker: int) -> np.ndarray:
        if speaker not in beliefs:
            return self._prior
        walk = self.suite.drift * SPEAKER_SPREAD / (_GRID_STEP * TURN_SCATTER)
        return gaussian_filter(beliefs[speaker], walk, mode="constant") if self.suite.drift else beliefs[speaker]

    def _likelihood(self, turn: ScriptedTurn, emotion: int) -> np.ndarray:
        """(pitches, levels), the likelihood of a turn with an emotion for each usual pitch and level."""
        errors = [
            (observed - change - axis) / scatter
            for observed, change, axis, scatter in zip(
                (turn.pitch, turn.level), EMOTION_CHANGES[emotion], self._axes, TURN_SCATTER
            )
        ]
        return np.outer(*(np.exp(-0.5 * error**2) for error in errors)) + 1e-300


def best_accuracy(suite: Suite, *, uses_history: bool = True, conversations: int = 1000, seed: int = 0) -> float:
    """The simulated accuracy of the Bayes-optimal classifier on the scored turns of a suite.

    Args:
        suite: how conversations are drawn.
        uses_history: False: from the utterance alone.
        conversations: number of conversations.
        seed: random seed.
    """
    drawn = (suite.draw(np.random.default_rng((seed, number))) for number in range(conversations))
    return accuracy_of_best(drawn, suite, uses_history=uses_history)


def accuracy_of_best(scripts, suite: Suite, *, uses_history: bool = True) -> float:
    """As `best_accuracy`, on given scripts of the suite."""
    classifier = BayesClassifier(suite, uses_history=uses_history)
    hits = [hit for script in scripts for hit in _hits(classifier, script)]
    return float(np.mean(hits))


def _hits(classifier: BayesClassifier, script: Script) -> list[bool]:
    predicted = classifier.predict(script.turns).argmax(-1)
    return [predicted[i] == turn.emotion for i, turn in enumerate(script.turns) if not turn.is_introduction]


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()
