"""Continuous dimensions of emotion (valence, arousal, dominance): their names and their loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_dimensions(names) -> None:
    """Check the names of dimensions.

    Raises:
        ValueError: unless it is a list of different, non-empty names.
    """
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names)
    if not is_list or len(set(names)) != len(names):
        raise ValueError(f"emotion_dimensions must be a list of different names, got {names!r:.500}.")


def concordance(values: Tensor, targets: Tensor) -> Tensor:
    """(dimensions,) float, the concordance correlation coefficient (Lin 1989, equation 2) of each dimension.

    2 cov(x, y) / (var(x) + var(y) + (mean(x) - mean(y))^2), with moments over the turns whose target is known. It is
    0 for two constants, and for a dimension with fewer than two known targets.

    Args:
        values: (turns, dimensions).
        targets: (turns, dimensions); NaN = unknown.
    """
    values = values if values.dtype == torch.float64 else values.float()
    targets = targets.to(values)
    known = ~targets.isnan()
    count = known.sum(0).clamp(min=1)

    def mean(numbers: Tensor) -> Tensor:
        return numbers.masked_fill(~known, 0).sum(0) / count

    targets = targets.masked_fill(~known, 0)
    x, y = mean(values), mean(targets)
    covariance = mean((values - x) * (targets - y))
    spread = mean((values - x) ** 2) + mean((targets - y) ** 2) + (x - y) ** 2
    return 2 * covariance / spread.clamp(min=torch.finfo(values.dtype).eps)


def concordance_loss(values: Tensor, targets: Tensor | Sequence[Sequence[float]]) -> Tensor:
    """1 - `concordance`, averaged over dimensions with at least two known targets; 0, with a graph, if there are none.

    It is computed over all turns of the call together, so few turns per call give a noisy loss.

    Args:
        values: (turns, dimensions).
        targets: (turns, dimensions); NaN = unknown.

    Raises:
        ValueError: for targets of another shape, or that are infinite.
    """
    targets = torch.as_tensor(targets, dtype=torch.float32, device=values.device)
    if targets.shape != values.shape:
        raise ValueError(
            f"emotion_value_labels must be {tuple(values.shape)} (rows, dimensions), got {tuple(targets.shape)}."
        )
    if not torch.compiler.is_compiling() and bool(targets.isinf().any()):
        raise ValueError("emotion_value_labels must be finite, or NaN where unknown; some are infinite.")
    is_known = (~targets.isnan()).sum(0) > 1
    return ((1 - concordance(values, targets)) * is_known).sum() / is_known.sum().clamp(min=1)
