"""A small network beside a linear readout, whose probabilities are averaged: a second classifier of turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


WIDTH, STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 256, 600, 256, 2e-3, 0.1
# Of the inputs and of the hidden units.
DROPOUT = (0.3, 0.5)


class AveragedReadout(nn.Module):
    """The logarithm of the mean of the probabilities of several readouts."""

    def __init__(self, readouts: Sequence[nn.Module]):
        super().__init__()
        self.readouts = nn.ModuleList(readouts)

    def forward(self, turns: Tensor) -> Tensor:
        """(..., width) to (..., labels)."""
        return torch.stack([readout(turns).softmax(-1) for readout in self.readouts]).mean(0).log()


def fit_network(turns: np.ndarray, emotions: np.ndarray, labels: int, *, seed: Sequence[int]) -> nn.Module:
    """A network of one hidden layer; the loss weighs emotions by their inverse frequency.

    Args:
        turns: (turns, width) float.
        emotions: (turns,) int.
        labels: how many emotions.
        seed: of weights, batches and dropout.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(int(rng.integers(2**31)))
        inputs, answers = torch.from_numpy(turns).float(), torch.from_numpy(emotions)
        counts = torch.bincount(answers, minlength=labels)
        network = nn.Sequential(
            nn.Dropout(DROPOUT[0]), nn.Linear(inputs.shape[1], WIDTH), nn.ReLU(), nn.Dropout(DROPOUT[1]),
            nn.Linear(WIDTH, labels),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
        weights = len(answers) / (labels * counts.clamp(min=1))
        for _ in range(STEPS):
            rows = torch.from_numpy(rng.integers(len(answers), size=BATCH))
            loss = F.cross_entropy(network(inputs[rows]), answers[rows], weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()
