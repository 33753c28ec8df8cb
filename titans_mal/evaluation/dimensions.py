"""Dimensions of emotion in a report: concordance of a model's values with the raters' values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset

from .statistics import bootstrap_interval
from .table_scoring import TableScores


def concordance_of(moments: np.ndarray) -> np.ndarray:
    """(...), the concordance correlation coefficient (Lin 1989, equation 2) from summed moments; NaN if undefined.

    Args:
        moments: (..., 6), sums over turns of 1, x, y, x^2, y^2 and x y.
    """
    count, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = x / count, y / count
        covariance = xy / count - mean_x * mean_y
        spread = xx / count - mean_x**2 + yy / count - mean_y**2 + (mean_x - mean_y) ** 2
        return 2 * covariance / spread


def concordance(values: np.ndarray, targets: np.ndarray, conversations: Sequence[str], **bootstrap) -> dict:
    """The concordance of one dimension with its 95 % interval by bootstrap over conversations.

    Args:
        values, targets: (turns,), all of them known.
        conversations: (turns,) the conversation of each turn.
        bootstrap: `resamples` and `seed`.

    Returns:
        `value` (0 if neither varies), `interval` (None for too few conversations) and `turns`.
    """
    # Centred on the targets' mean, to avoid cancellation in the differences of sums.
    x, y = values - targets.mean(), targets - targets.mean()
    names = {name: number for number, name in enumerate(dict.fromkeys(conversations))}
    moments = np.zeros((len(names), 6))
    each = np.stack([np.ones(len(x)), x, y, x**2, y**2, x * y], -1)
    np.add.at(moments, [names[name] for name in conversations], each)
    value = float(np.nan_to_num(concordance_of(moments.sum(0))))
    ends = bootstrap_interval(len(moments), lambda drawn: concordance_of(moments[drawn].sum(-2)), **bootstrap)
    return {"value": value, "interval": ends, "turns": len(x)}


def targets_of(dataset: Dataset, dimensions: Sequence[str]) -> dict[str, np.ndarray]:
    """For each dimension in the table, the raters' values (turns,); NaN where unknown."""
    return {
        name: np.array([np.nan if value is None else value for value in dataset[name]], dtype=np.float64)
        for name in dimensions
        if name in dataset.column_names
    }


def dimension_results(
    scores: Mapping[str, TableScores],
    dimensions: Sequence[str],
    dataset: Dataset,
    *,
    without: Sequence[int],
    **bootstrap,
) -> dict[str, dict[str, dict]]:
    """For each condition, the `concordance` of each dimension in the table.

    Args:
        scores: scores of each condition, with `values` in the order of `dimensions`.
        without: rows that are not scored.
        bootstrap: `resamples` and `seed`.
    """
    targets, conversations = targets_of(dataset, dimensions), dataset["conversation_id"][:]
    left_out = set(without)
    results: dict[str, dict] = {}
    for condition, scored in scores.items():
        for name, gold in targets.items():
            place = list(dimensions).index(name)
            rows = [row for row in sorted(scored.values) if row not in left_out and not np.isnan(gold[row])]
            if rows:
                values = np.array([scored.values[row][place] for row in rows])
                found = concordance(values, gold[rows], [conversations[row] for row in rows], **bootstrap)
                results.setdefault(condition, {})[name] = found
    return results
