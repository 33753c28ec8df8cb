"""The numbers of a report: metrics of predictions, their differences, and both by history and group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset

from ..data.overview import DEPTHS, depth_name, history_depths
from .statistics import METRICS, confusions, difference, interval, mcnemar, metric_of, share_interval


# Columns of the table for whose values results are reported separately, if present.
GROUPED_BY = ("gender", "language", "speaker")


@dataclass
class Turns:
    """The columns of a table that the metrics need; all (turns,).

    Attributes:
        references: labels, below 0 = not scored.
        depths: number of earlier turns of the speaker in the conversation.
        groups: for each column in `GROUPED_BY`, the value of each turn.
    """

    conversations: list[str]
    speakers: list[str]
    references: np.ndarray
    labels: list[str]
    depths: list[int]
    groups: dict[str, list[str | None]]

    @classmethod
    def of(cls, dataset: Dataset, not_scored: Sequence[int]) -> Turns:
        """From a table; turns whose audio is unusable are not scored."""
        columns = dataset.select_columns(["conversation_id", "speaker", "emotion"]).to_dict()
        references = np.array(columns["emotion"])
        references[list(not_scored)] = -1
        depths = history_depths(columns["conversation_id"], columns["speaker"])
        labels = dataset.features["emotion"].names
        groups = {name: list(dataset[name]) for name in GROUPED_BY if name in dataset.column_names}
        return cls(columns["conversation_id"], columns["speaker"], references, labels, depths, groups)

    def only(self, covered: np.ndarray) -> Turns:
        """The same turns, of which only the covered ones, (turns,) bool, are scored."""
        return replace(self, references=np.where(covered, self.references, -1))

    @property
    def scored(self) -> np.ndarray:
        """(turns,) bool."""
        return self.references >= 0


def measure(
    predicted: np.ndarray, references: np.ndarray, conversations: Sequence[str], num_labels: int, **bootstrap
) -> dict[str, dict]:
    """The metrics of predictions with their intervals, as `EmotionMetrics` defines them.

    Args:
        predicted, references: (turns,), as for `EmotionMetrics`.
        conversations: (turns,), the unit of resampling.
        bootstrap: `resamples` and `seed`.

    Raises:
        ValueError: if no turn is scored.
    """
    counts = confusions(predicted, references, conversations, num_labels)
    if not len(counts):
        raise ValueError("No turn is scored: every reference is below 0.")
    return {
        name: {"value": float(metric_of(name, counts.sum(0))), "interval": interval(counts, name, **bootstrap)}
        for name in METRICS
    }


def confusion_and_recall(predicted: np.ndarray, turns: Turns) -> dict:
    """`confusion` and, by label, `recall`, as in `EmotionMetrics`."""
    confusion = confusions(predicted, turns.references, turns.conversations, len(turns.labels)).sum(0)
    support, right = confusion.sum(-1), np.diagonal(confusion)
    recall = {label: int(r) / int(n) if n else None for label, r, n in zip(turns.labels, right, support)}
    return {"recall": recall, "confusion": confusion.tolist()}


def compare_predictions(
    first: np.ndarray,
    second: np.ndarray,
    references: np.ndarray,
    conversations: Sequence[str],
    num_labels: int,
    **bootstrap,
) -> dict:
    """The metrics of the first predictions minus those of the second on the same turns, and McNemar's test."""
    ours, theirs = (confusions(predicted, references, conversations, num_labels) for predicted in (first, second))
    metrics = {}
    for name in METRICS:
        value, ends = difference(ours, theirs, name, **bootstrap)
        metrics[name] = {"value": value, "interval": ends}
    scored = references >= 0
    return {"metrics": metrics, "mcnemar": mcnemar(*((p == references)[scored] for p in (first, second)))}


def by_history(predicted: np.ndarray, turns: Turns, **bootstrap) -> dict[str, dict]:
    """`turns`, `wa` and its `interval` by the number of earlier turns of the speaker."""
    names = np.array([depth_name(depth) for depth in turns.depths])
    found = {}
    for name in (depth_name(first) for first, _ in DEPTHS):
        chosen = turns.scored & (names == name)
        if chosen.any():
            right = (predicted == turns.references)[chosen]
            conversations = [turns.conversations[row] for row in np.flatnonzero(chosen)]
            ends = share_interval(right, conversations, **bootstrap)
            found[name] = {"turns": int(chosen.sum()), "wa": float(right.mean()), "interval": ends}
    return found


def by_group(predicted: Mapping[str, np.ndarray], turns: Turns) -> dict[str, dict]:
    """For each column in `Turns.groups` and each of its values: `turns`, and `wa` and `ua` of each condition.

    Turns without a value are left out; UA is over the labels that occur in the group.
    """
    found: dict[str, dict] = {}
    for column, values in turns.groups.items() if predicted else ():
        references = np.where([value is not None for value in values], turns.references, -1)
        groups = [str(value) for value in values]
        scored = {group for group, label in zip(groups, references) if label >= 0}
        names = [group for group in dict.fromkeys(groups) if group in scored]
        shares, sizes = {}, {}
        for name, labels in predicted.items():
            counts = confusions(labels, references, groups, len(turns.labels))
            shares[name] = {metric: metric_of(metric, counts).tolist() for metric in ("wa", "ua")}
            sizes = counts.sum((1, 2)).tolist()
        found[column] = {
            group: {
                "turns": sizes[place],
                "conditions": {
                    name: {metric: values[place] for metric, values in metrics.items()}
                    for name, metrics in shares.items()
                },
            }
            for place, group in enumerate(names)
        }
    return {column: groups for column, groups in found.items() if groups}


def mean_by_history(values: Mapping[int, float], depths: Sequence[int]) -> dict[str, float]:
    """The mean of the known values of rows, by the number of earlier turns of the speaker."""
    found: dict[str, list[float]] = defaultdict(list)
    for row, value in values.items():
        found[depth_name(depths[row])].append(value)
    names = (depth_name(first) for first, _ in DEPTHS)
    return {name: float(np.mean(found[name])) for name in names if found[name]}
