"""What any number must be compared with: rivals that need no memory, and floors that need no model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np


def majority(references: np.ndarray, num_labels: int) -> int:
    """The most frequent label, the first of equals.

    Args:
        references: (turns,), below 0 = not scored.
    """
    return int(np.bincount(references[references >= 0], minlength=num_labels).argmax())


def copy_previous(
    references: np.ndarray, conversations: Sequence[str], speakers: Sequence[str], fallback: int
) -> np.ndarray:
    """(turns,), for each turn the gold label of its speaker's latest scored turn before it; else `fallback`.

    It looks at gold labels, which no model may: on acted and scripted corpora it is hard to beat.
    """
    latest: dict[tuple[str, str], int] = {}
    copies = []
    for label, talker in zip(references.tolist(), zip(conversations, speakers)):
        copies.append(latest.get(talker, fallback))
        if label >= 0:
            latest[talker] = label
    return np.array(copies)


def speaker_normalised(logits: np.ndarray, conversations: Sequence[str], speakers: Sequence[str]) -> np.ndarray:
    """(turns, labels), the utterance's logits, each normalised by what the speaker had so far.

    A cheap rival of a memory: of the speaker's turns up to and with this one, running mean m and variance s^2 of each
    label's logit (less the turn's mean over labels), z = (l - m) / s. One more turn of mean 0 and variance 1 is
    counted in, so that a speaker's first turn keeps the order of its logits.

    Args:
        logits: (turns, labels), in the order in which the turns were said.
    """
    centred = logits - logits.mean(-1, keepdims=True)
    count: Counter = Counter()
    total: dict = defaultdict(lambda: np.zeros(logits.shape[1]))
    squares: dict = defaultdict(lambda: np.ones(logits.shape[1]))
    scores = np.empty_like(centred)
    for position, talker in enumerate(zip(conversations, speakers)):
        count[talker] += 1
        total[talker] = total[talker] + centred[position]
        squares[talker] = squares[talker] + centred[position] ** 2
        mean = total[talker] / (count[talker] + 1)
        variance = squares[talker] / (count[talker] + 1) - mean**2
        scores[position] = (centred[position] - mean) / np.sqrt(variance)
    return scores
