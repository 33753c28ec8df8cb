"""Uncertainty of metrics: bootstrap over conversations, paired differences, McNemar's test."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats


METRICS = ("wa", "ua", "weighted_f1", "macro_f1")
CONFIDENCE = 0.95
# With fewer, percentile intervals are far too narrow (see `test_intervals_of_few_conversations_are_too_narrow`).
MIN_CONVERSATIONS = 10


def confusions(
    predictions: np.ndarray, references: np.ndarray, conversations: Sequence[str], num_labels: int
) -> np.ndarray:
    """(conversations, num_labels, num_labels + 1) counts of scored turns, conversations in order of occurrence.

    Args:
        predictions: (turns,), -1 = no label, counted in the last column.
        references: (turns,), below 0 = not scored.
        conversations: (turns,) the conversation of each turn.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(conversations))}
    index = np.array([numbers[name] for name in conversations])
    counts = np.zeros((len(numbers), num_labels, num_labels + 1), dtype=np.int64)
    scored = references >= 0
    columns = np.where(predictions < 0, num_labels, predictions)
    np.add.at(counts, (index[scored], references[scored], columns[scored]), 1)
    return counts[counts.any((1, 2))]


def metric_of(name: str, confusion: np.ndarray) -> np.ndarray:
    """A metric of `METRICS` for confusion matrices (..., labels, labels + 1), as `EmotionMetrics` defines it."""
    confusion = confusion.astype(np.float64)
    support = confusion.sum(-1)
    right = np.diagonal(confusion[..., :-1], axis1=-2, axis2=-1)
    present = support > 0
    if name == "wa":
        return right.sum(-1) / support.sum(-1)
    recall = right / np.maximum(support, 1)
    if name == "ua":
        return recall.sum(-1) / present.sum(-1)
    f1 = 2 * right / np.maximum(support + confusion[..., :-1].sum(-2), 1)
    if name == "weighted_f1":
        return (f1 * support).sum(-1) / support.sum(-1)
    if name == "macro_f1":
        return (f1 * present).sum(-1) / present.sum(-1)
    raise ValueError(f"metric must be one of {METRICS}, got {name!r}.")


def interval(counts: np.ndarray, name: str, *, resamples: int, seed: int) -> list[float] | None:
    """The 95 % percentile bootstrap interval of a metric, with conversations drawn with replacement.

    Args:
        counts: the result of `confusions`.
        name: name of the metric.
        resamples, seed: number of resamples and random seed of the bootstrap.

    Returns:
        Its ends; None for fewer than `MIN_CONVERSATIONS`.
    """
    return bootstrap_interval(
        len(counts), lambda drawn: metric_of(name, counts[drawn].sum(-3)), resamples=resamples, seed=seed
    )


def share_interval(
    right: np.ndarray, conversations: Sequence[str], *, resamples: int, seed: int
) -> list[float] | None:
    """As `interval`, for the share of correct turns.

    Args:
        right: (turns,) bool.
        conversations: (turns,) the conversation of each turn.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(conversations))}
    counts = np.zeros((len(names), 2))
    np.add.at(counts, [names[name] for name in conversations], np.stack([right, np.ones(len(right))], -1))

    def share(drawn):
        sums = counts[drawn].sum(-2)
        return sums[..., 0] / sums[..., 1]

    return bootstrap_interval(len(counts), share, resamples=resamples, seed=seed)


def difference(
    first: np.ndarray, second: np.ndarray, name: str, *, resamples: int, seed: int
) -> tuple[float, list[float] | None]:
    """A metric of one condition minus that of another on the same turns, and the interval of this difference.

    Args:
        first, second: results of `confusions` for the same conversations.
    """

    def statistic(drawn):
        return metric_of(name, first[drawn].sum(-3)) - metric_of(name, second[drawn].sum(-3))

    value = float(metric_of(name, first.sum(0)) - metric_of(name, second.sum(0)))
    return value, bootstrap_interval(len(first), statistic, resamples=resamples, seed=seed)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> dict[str, float | int]:
    """McNemar's exact test of two conditions on the same turns (McNemar 1947; the binomial form).

    It assumes independent turns, but turns of one conversation are not: prefer the interval by conversation.

    Args:
        first_right, second_right: (turns,) bool.

    Returns:
        `better` and `worse`: turns that only the first, and only the second, got right; `p`, two-sided.
    """
    better = int((first_right & ~second_right).sum())
    worse = int((~first_right & second_right).sum())
    p = 1.0 if better + worse == 0 else float(stats.binomtest(better, better + worse).pvalue)
    return {"better": better, "worse": worse, "p": p}


def bootstrap_interval(conversations: int, statistic: Callable, *, resamples: int, seed: int) -> list[float] | None:
    """The 95 % percentile bootstrap interval of a statistic, with conversations drawn with replacement.

    Args:
        conversations: their number.
        statistic: maps the numbers of drawn conversations, (..., conversations), to (...).

    Returns:
        Its ends; None for fewer than `MIN_CONVERSATIONS`.
    """
    if conversations < MIN_CONVERSATIONS:
        return None
    result = stats.bootstrap(
        (np.arange(conversations),),
        # Resampled indices are (resamples, conversations), or (conversations,).
        lambda drawn, axis: statistic(drawn),
        n_resamples=resamples,
        batch=100,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]
