"""Metrics of speech emotion recognition as a module of `evaluate`; load it offline by `evaluate.load(<this file>)`.

It imports nothing from titans_mal, so that `evaluate` can copy it.
"""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score


_DESCRIPTION = """
Weighted accuracy (WA: the share of correct turns), unweighted accuracy (UA: the mean recall over labels),
weighted and macro F1, the recall of each label, and the confusion matrix.
"""
_INPUTS = """
Args:
    predictions: (turns,) label indices; -1 = no label (an answer that could not be parsed), which counts as wrong.
    references: (turns,) label indices; turns below 0 are not scored.
    num_labels: number of labels; None: up to the largest reference or prediction.

Returns:
    wa, ua, weighted_f1, macro_f1: in [0, 1]; means over labels include only labels that occur in the references.
    recall: (num_labels,), None for a label that does not occur.
    confusion: (num_labels, num_labels + 1) counts, references in rows; the last column is "no label".
    turns: number of scored turns.

Raises:
    ValueError: if no turn is scored, or an index is out of range.
"""


class EmotionMetrics(evaluate.Metric):
    """See `_INPUTS` above, which `evaluate` shows as the metric's `inputs_description`."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references, num_labels: int | None = None) -> dict:
        predictions, references = np.asarray(predictions), np.asarray(references)
        scored = references >= 0
        predictions, references = predictions[scored], references[scored]
        if not len(references):
            raise ValueError("No turn is scored: every reference is below 0.")
        largest = int(max(predictions.max(), references.max()))
        num_labels = largest + 1 if num_labels is None else num_labels
        if largest >= num_labels or predictions.min() < -1:
            raise ValueError(
                f"Labels must be -1 (predictions only) to {num_labels - 1}, got {predictions.min()}..{largest}."
            )
        present = np.unique(references)
        means = {"y_true": references, "y_pred": predictions, "labels": present, "zero_division": 0}
        recall = dict(zip(present.tolist(), recall_score(**means, average=None).tolist()))
        # "No label" is put after the last label.
        columns = np.where(predictions < 0, num_labels, predictions)
        confusion = confusion_matrix(references, columns, labels=range(num_labels + 1))[:-1]
        return {
            "wa": float(accuracy_score(references, predictions)),
            "ua": float(recall_score(**means, average="macro")),
            "weighted_f1": float(f1_score(**means, average="weighted")),
            "macro_f1": float(f1_score(**means, average="macro")),
            "recall": [recall.get(label) for label in range(num_labels)],
            "confusion": confusion.tolist(),
            "turns": len(references),
        }
