"""How every model of the evidence is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class CosineAdamW:
    """AdamW whose rate rises over a twentieth of the steps, and falls to nothing as a cosine.

    Args:
        parameters: that are trained.
        learning_rate: at its highest.
        steps: of the training.
    """

    def __init__(self, parameters: Sequence[Tensor], *, learning_rate: float, steps: int):
        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
        warmup = max(1, steps // 20)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        )

    def step(self, loss: Tensor) -> None:
        """One step down the slope of a loss, whose norm is cut at 1."""
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
