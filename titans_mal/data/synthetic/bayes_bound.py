"""How well the emotions of a suite can be told: the best possible listener, from the utterance alone and with history.

It knows how the suite is drawn, who talks, and the pitch and level of each turn exactly, so no listener to sound does
better. What it does not know are the speakers' usual pitch and level, and the emotions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from .suites import EMOTION_CHANGES, EMOTIONS, NEUTRAL, SPEAKER_SPREAD, TURN_SCATTER, Script, ScriptedTurn, Suite


# The usual pitch and level of a speaker lie on a grid, in steps of half a turn's scatter.
_GRID_REACH, _GRID_STEP = 4.5, 0.5


class BestListener:
    """The forward filter over the speakers' usual voices and the emotion (a hidden Markov model: Rabiner 1989, III.A).

    Speakers with scattered voices have a belief each on a grid of usual pitch and level; the emotion, where it stays,
    has one of the conversation. Exact up to the grid: where emotions stay, all usual voices are the same.

    Args:
        suite: how the conversations are drawn.
        uses_history: False forgets everything before each turn.
    """

    def __init__(self, suite: Suite, *, uses_history: bool = True):
        self.suite = suite
        self.uses_history = uses_history
        spread = suite.spread * SPEAKER_SPREAD
        # A random walk widens the prior; no more than a few steps are taken.
        self._axes = [
            np.arange(-_GRID_REACH * s, _GRID_REACH * s + step, step)
            for s, step in zip(np.hypot(spread, 2 * suite.drift * SPEAKER_SPREAD), _GRID_STEP * TURN_SCATTER)
        ]
        pitch, level = (np.exp(-0.5 * (axis / (s or 1.0)) ** 2) for axis, s in zip(self._axes, spread))
        self._prior = np.outer(pitch, level) / (pitch.sum() * level.sum())

    def listen(self, turns: Sequence[ScriptedTurn]) -> np.ndarray:
        """(turns, emotions), the probability of each emotion given the turn and those before it."""
        beliefs: dict[int, np.ndarray] = {}
        expected, told = np.full(len(EMOTIONS), 1 / len(EMOTIONS)), []
        for index, turn in enumerate(turns):
            if not self.uses_history:
                beliefs, expected = {}, np.full(len(EMOTIONS), 1 / len(EMOTIONS))
            elif index:
                expected = expected @ self.suite.next_emotion_probabilities()
            if turn.is_introduction and self.uses_history:
                expected = np.eye(len(EMOTIONS))[NEUTRAL]
            belief = self._belief(beliefs, turn.speaker)
            if turn.is_whispered:
                # Its pitch and level are those of a neutral voice, whatever the emotion.
                beliefs[turn.speaker] = _normalised(belief * self._likelihood(turn, NEUTRAL))
            else:
                joint = np.stack([belief * self._likelihood(turn, e) for e in range(len(EMOTIONS))])
                joint *= expected[:, None, None]
                expected = _normalised(joint.sum((1, 2)))
                beliefs[turn.speaker] = _normalised(joint.sum(0))
            told.append(expected)
        return np.stack(told)

    def _belief(self, beliefs: dict[int, np.ndarray], speaker: int) -> np.ndarray:
        if speaker not in beliefs:
            return self._prior
        walk = self.suite.drift * SPEAKER_SPREAD / (_GRID_STEP * TURN_SCATTER)
        return gaussian_filter(beliefs[speaker], walk, mode="constant") if self.suite.drift else beliefs[speaker]

    def _likelihood(self, turn: ScriptedTurn, emotion: int) -> np.ndarray:
        """(pitches, levels), of a turn in an emotion for each usual pitch and level."""
        errors = [
            (heard - change - axis) / scatter
            for heard, change, axis, scatter in zip(
                (turn.pitch, turn.level), EMOTION_CHANGES[emotion], self._axes, TURN_SCATTER
            )
        ]
        return np.outer(*(np.exp(-0.5 * error**2) for error in errors)) + 1e-300


def best_accuracy(suite: Suite, *, uses_history: bool = True, conversations: int = 1000, seed: int = 0) -> float:
    """The accuracy of the best possible listener on the scored turns of a suite, simulated.

    Args:
        suite: how conversations are drawn.
        uses_history: False: from the utterance alone.
        conversations: how many are drawn.
        seed: of what is drawn.
    """
    drawn = (suite.draw(np.random.default_rng((seed, number))) for number in range(conversations))
    return accuracy_of_best(drawn, suite, uses_history=uses_history)


def accuracy_of_best(scripts, suite: Suite, *, uses_history: bool = True) -> float:
    """As `best_accuracy`, on given scripts of the suite."""
    listener = BestListener(suite, uses_history=uses_history)
    right = [hit for script in scripts for hit in _hits(listener, script)]
    return float(np.mean(right))


def _hits(listener: BestListener, script: Script) -> list[bool]:
    told = listener.listen(script.turns).argmax(-1)
    return [told[i] == turn.emotion for i, turn in enumerate(script.turns) if not turn.is_introduction]


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()
