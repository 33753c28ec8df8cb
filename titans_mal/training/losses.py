"""The loss of a batch of turns, summed over the scored turns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def summed_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    probabilities: Tensor | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of the scored turns, summed.

    Args:
        logits: (turns, labels).
        labels: (turns,); below 0 = not scored.
        probabilities: (turns, labels), soft labels that replace the labels of scored turns; None: one-hot.
        class_weights: (labels,), weight of each label in the loss; None: ones.
        label_smoothing: share of each turn's target that is spread evenly over all labels (arXiv 1512.00567,
            section 7), as in torch's `cross_entropy`.

    Returns:
        A scalar in float32 (float64 for float64 logits); 0, with a graph, if no turn is scored.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    targets = F.one_hot(labels.clamp(min=0), logits.shape[-1]) if probabilities is None else probabilities
    targets = torch.lerp(targets.to(logits), torch.full_like(logits, 1 / logits.shape[-1]), label_smoothing)
    if class_weights is not None:
        targets = targets * class_weights.to(logits)
    losses = -(targets * logits.log_softmax(-1)).sum(-1)
    return losses.masked_fill(labels < 0, 0).sum()


def balanced_class_weights(labels: Sequence[int], num_labels: int) -> Tensor:
    """(num_labels,), inversely proportional to the frequency of each label, 1 on average over the scored turns.

    Args:
        labels: labels of the turns; below 0 = not scored.
        num_labels: number of labels; labels that never occur have weight 0.
    """
    counts = torch.bincount(torch.tensor([label for label in labels if label >= 0]), minlength=num_labels).float()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0.0)
