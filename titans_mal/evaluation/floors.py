"""Reference results: a speaker-normalised baseline without memory, and floors that need no model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np


def majority(references: np.ndarray, num_labels: int) -> int:
    """The most frequent label; the first if several are equally frequent.

    Args:
        references: (turns,), below 0 = not scored.
    """
    return int(np.bincount(references[references >= 0], minlength=num_labels).argmax())


def copy_previous(
    references: np.ndarray, conversations: Sequence[str], speakers: Sequence[str], fallback: int
) -> np.ndarray:
    """(turns,), the gold label of the speaker's latest scored turn, or `fallback` if there is none.

    It uses gold labels, which no model may: on acted and scripted corpora this is hard to beat.
    """
    latest: dict[tuple[str, str], int] = {}
    copies = []
    for label, speaker in zip(references.tolist(), zip(conversations, speakers)):
        copies.append(latest.get(speaker, fallback))
        if label >= 0:
            latest[speaker] = label
    return np.array(copies)


def speaker_normalised(logits: np.ndarray, conversations: Sequence[str], speakers: Sequence[str]) -> np.ndarray:
    """(turns, labels), each turn's logits, normalised by the speaker's logits so far.

    A cheap baseline for a memory: with the running mean m and variance s^2 of each label's logit (minus the turn's
    mean over labels) over the speaker's turns up to and including this one, z = (l - m) / s. One additional turn of
    mean 0 and variance 1 is included, so that a speaker's first turn keeps the order of its logits.

    Args:
        logits: (turns, labels), in chronological order.
    """
    centred = logits - logits.mean(-1, keepdims=True)
    count: Counter = Counter()
    total: dict = defaultdict(lambda: np.zeros(logits.shape[1]))
    squares: dict = defaultdict(lambda: np.ones(logits.shape[1]))
    scores = np.empty_like(centred)
    for position, speaker in enumerate(zip(conversations, speakers)):
        count[speaker] += 1
        total[speaker] = total[speaker] + centred[position]
        squares[speaker] = squares[speaker] + centred[position] ** 2
        mean = total[speaker] / (count[speaker] + 1)
        variance = squares[speaker] / (count[speaker] + 1) - mean**2
        scores[position] = (centred[position] - mean) / np.sqrt(variance)
    return scores
