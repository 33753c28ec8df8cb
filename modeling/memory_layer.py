"""Shared by all memory layers: their output, their argument checks, and the surprise of a turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .memory_state import NeuralMemoryState


@dataclass
class TitansMemoryOutput:
    """The output of a memory layer for a batch of turns.

    Attributes:
        residual: (rows, tokens, hidden_size), to be added to the block's output; zero beyond a row's length.
        surprise: (rows,), mean over a turn's tokens and heads of ||M(k) - v||^2 / ||v||^2 with M before the turn; NaN
            for a turn without tokens.
        state: the streams' state after their turns.
        is_rejected: (rows,) bool, the turns after which a memory of `step_rule="paper"` would not be finite or would
            exceed `memory_state.norm_bound`, so that they were not written; None for "normalized", which cannot
            exceed it, and if nothing is written.
    """

    residual: Tensor
    surprise: Tensor
    state: NeuralMemoryState
    is_rejected: Tensor | None = None


def mean_of_turns(hidden_states: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean of each turn's hidden states, in at least float32.

    Args:
        hidden_states: (rows, tokens, hidden_size).
        lengths: (rows,) how many tokens of each row, from the first, are averaged; None = all.

    Returns:
        (rows, hidden_size); zero for a row without tokens.
    """
    hidden_states = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
    if lengths is None:
        return hidden_states.mean(1)
    lengths = lengths.to(hidden_states.device)[:, None]
    absent = torch.arange(hidden_states.shape[1], device=hidden_states.device) >= lengths
    return hidden_states.masked_fill(absent[..., None], 0).sum(1) / lengths.clamp(min=1)


def check_rows(hidden_states: Tensor, state: NeuralMemoryState, lengths: Tensor | None, sizes: list[int]) -> None:
    """Raise ValueError if the arguments of a memory layer's `forward` do not fit together."""
    rows, streams = len(hidden_states), len(state.weights[0])
    if sizes != sorted(sizes, reverse=True) or sum(sizes) != rows or sizes[:1] != [streams] or sizes[-1] < 0:
        raise ValueError(
            f"batch_sizes must be non-increasing, begin with the state's {streams} streams and sum to the {rows} rows "
            f"of hidden_states, got {sizes}."
        )
    if lengths is not None and (lengths.shape != (rows,) or lengths.is_floating_point()):
        raise ValueError(
            f"lengths must be ({rows},) integers, one per row, got {lengths.dtype} {tuple(lengths.shape)}."
        )


def surprise_of_turns(errors: Tensor, values: Tensor, written: Tensor | None) -> Tensor:
    """(rows,), the mean squared error of a turn's tokens relative to their squared values."""
    # Values are RMS-normalised; only those of silence have a norm below one.
    sizes = torch.linalg.vector_norm(values.detach(), dim=-1).square().clamp(min=1.0)
    ratio = (errors / sizes).mean(1)
    return ratio.mean(-1) if written is None else ratio.masked_fill(~written, 0).sum(-1) / written.sum(-1)
