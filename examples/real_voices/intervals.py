"""Unweighted average recall, and paired intervals by a bootstrap over test speakers and dialogues."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


# With fewer test speakers, the bootstrap over them gives too narrow intervals.
FEWEST_TESTED = 10


@dataclass(frozen=True)
class ScoredTurns:
    """The scored turns of one or several folds.

    Attributes:
        emotions: (turns,) int, the right answers.
        speakers: (turns,) int, who speaks, numbered over all folds.
        dialogues: (turns,) int, numbered over all folds.
    """

    emotions: np.ndarray
    speakers: np.ndarray
    dialogues: np.ndarray

    def only(self, kept: np.ndarray) -> ScoredTurns:
        """Some of the turns, (turns,) bool."""
        return ScoredTurns.join([ScoredTurns(self.emotions[kept], self.speakers[kept], self.dialogues[kept])])

    def as_one_emotion(self) -> ScoredTurns:
        """The turns as if all had one emotion, whose average recall is the share of right turns (WA)."""
        return replace(self, emotions=np.zeros_like(self.emotions))

    @classmethod
    def join(cls, parts: list[ScoredTurns]) -> ScoredTurns:
        """The turns of several folds; each fold has speakers and dialogues of its own."""
        return cls(
            np.concatenate([part.emotions for part in parts]),
            _numbered_apart([part.speakers for part in parts]),
            _numbered_apart([part.dialogues for part in parts]),
        )


def _numbered_apart(arrays: list[np.ndarray]) -> np.ndarray:
    """All numbers from 0 on, without gaps; the same number of two arrays becomes two."""
    parts, count = [], 0
    for array in arrays:
        different, numbers = np.unique(array, return_inverse=True)
        parts.append(numbers + count)
        count += len(different)
    return np.concatenate(parts)


def average_recall(is_right: np.ndarray, emotions: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over the emotions of the share of their turns that is right.

    Args:
        is_right: (turns,) or (seeds, turns).
        emotions: (turns,) int.
        weights: (samples, turns) of each turn in each sample; None: one sample of ones.

    Returns:
        (samples,), averaged over the seeds.
    """
    right = np.atleast_2d(is_right).mean(0)
    weights = np.ones((1, len(emotions))) if weights is None else weights
    one_hot = np.eye(int(emotions.max()) + 1)[emotions]
    hits, counts = (weights * right) @ one_hot, weights @ one_hot
    # A sample may lack an emotion.
    recalls = np.divide(hits, counts, out=np.zeros_like(hits), where=counts > 0)
    return recalls.sum(1) / np.maximum((counts > 0).sum(1), 1)


def paired_difference(
    first: np.ndarray, second: np.ndarray, turns: ScoredTurns, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Points of average recall by which `first` lies above `second`, with a 95 % interval.

    Each sample draws as many test speakers as there are, with replacement, and then dialogues likewise; a turn counts
    as often as its speaker times its dialogue was drawn. Seeds are averaged, so that more of them do not narrow it.

    Args:
        first, second: (seeds, turns) bool, which turns each had right.
        turns: what both were scored on.
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((resamples, len(turns.emotions)))
    for names in (turns.speakers, turns.dialogues):
        present, groups = np.unique(names, return_inverse=True)
        count = len(present)
        weights *= rng.multinomial(count, np.full(count, 1 / count), size=resamples)[:, groups]
    recalls = [average_recall(scores, turns.emotions, weights) for scores in (first, second)]
    low, high = np.percentile(recalls[0] - recalls[1], [2.5, 97.5])
    centre = average_recall(first, turns.emotions)[0] - average_recall(second, turns.emotions)[0]
    return 100 * float(centre), 100 * float(low), 100 * float(high)


def note_on_few(speakers: int) -> str:
    """A warning if there are few test speakers, else an empty text."""
    is_few = speakers < FEWEST_TESTED
    return f"With only {speakers} test speakers, the intervals are too narrow." if is_few else ""


def in_points(centre: float, low: float, high: float) -> str:
    """A difference in points and its interval, as the tables have them."""
    return f"{centre:+.1f} ({low:+.1f} to {high:+.1f})"
