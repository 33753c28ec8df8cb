"""The state of a memory, and how large it may become.

The normalized step bounds what a token adds, but nothing in the recurrence bounds a sum over hours whose gates forget
little. So a memory that is written by it is projected, at the end of each turn, onto the ball ``||M||_F <= R`` of each
matrix, and its momentum likewise: after any number of turns, of any content, every matrix is at most R. In between, a
turn of n chunks can add no more than n times the momentum and the gradients, all of which are bounded by R, the keys
(of norm one) and the values. A memory that is used as it is meant to be never gets there, and is left bit for bit.

At the other end, numbers that strong forgetting has made tiny are taken for zero before they are denormal, with which
processors compute up to a hundred times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


# Root mean square of a matrix's entries: d_in^-1/2 in a fresh memory. Ten thousand turns of the worst kinds come to a
# twentieth of it (examples/benchmarks/stability.py).
MAX_RMS = 8.0

# Below these a factor of a gradient, and an entry of the state, are zero.
SMALLEST_FACTOR, SMALLEST_ENTRY = 1e-20, 1e-30


@dataclass
class NeuralMemoryState:
    """Weights and momentum of one memory layer's streams.

    Attributes:
        weights: one tensor per matrix of the MLP, each (streams, heads, d_in, d_out); float32, or float64 for float64
            inputs.
        momentum: the same shapes and dtype: the running sum S of the surprise.
    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]

    @classmethod
    def from_tensors(cls, tensors: Iterable[Tensor]) -> NeuralMemoryState:
        """The state whose `tensors` are these."""
        tensors = tuple(tensors)
        depth = len(tensors) // 2
        return cls(tensors[:depth], tensors[depth:])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weights, then the momentum."""
        return (*self.weights, *self.momentum)

    def map(self, function: Callable[..., Tensor], *others: NeuralMemoryState) -> NeuralMemoryState:
        """The state with `function` applied to each of its tensors, and to those of `others` in the same place."""
        return self.from_tensors(map(function, self.tensors, *(other.tensors for other in others)))

    def __getitem__(self, streams: slice | Tensor) -> NeuralMemoryState:
        """The state of some streams: a slice or a tensor of indices."""
        return self.map(lambda tensor: tensor[streams])

    @staticmethod
    def concatenate(states: Sequence[NeuralMemoryState]) -> NeuralMemoryState:
        """The streams of all states, one after the other."""
        return states[0].map(lambda *tensors: torch.cat(tensors), *states[1:])

    def is_within_bounds(self) -> Tensor:
        """(streams,) bool, whether all matrices of a stream are finite and within `norm_bound`."""
        norms = [torch.linalg.vector_norm(matrix, dim=(-2, -1)) / norm_bound(matrix) for matrix in self.tensors]
        return torch.stack([norm <= 1.0 for norm in norms]).all(0).all(-1)


def norm_bound(matrix: Tensor) -> float:
    """R of a memory's matrix (..., d_in, d_out): `MAX_RMS` times the root of its number of entries."""
    return MAX_RMS * math.sqrt(matrix.shape[-2] * matrix.shape[-1])


def norm_limit(matrix: Tensor) -> Tensor:
    """What scales matrices (..., d_in, d_out) down to `norm_bound` in the Frobenius norm, (..., 1, 1), at most 1."""
    norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    return (norm_bound(matrix) / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)


def bound_state(state: NeuralMemoryState, *, clip: bool, in_place: bool = False) -> NeuralMemoryState:
    """What a turn leaves of its state: entries below `SMALLEST_ENTRY` are zero.

    Args:
        state: after the turn's chunks.
        clip: scale each matrix by its `norm_limit` as well.
        in_place: overwrite the matrices, where no gradients are wanted.
    """
    if in_place:
        for matrix in state.tensors:
            torch.hardshrink(matrix.mul_(norm_limit(matrix)) if clip else matrix, SMALLEST_ENTRY, out=matrix)
        return state
    return state.map(lambda matrix: without_tiny(matrix * norm_limit(matrix) if clip else matrix, SMALLEST_ENTRY))


def without_tiny(tensor: Tensor, smallest: float) -> Tensor:
    """The tensor with zero for what is below `smallest`; its gradient is that of the tensor, also there."""
    if not (torch.is_grad_enabled() and tensor.requires_grad):
        return F.hardshrink(tensor, smallest)
    value = tensor.detach()
    return tensor + (F.hardshrink(value, smallest) - value)
