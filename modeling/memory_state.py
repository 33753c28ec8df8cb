"""The state of a memory, and bounds for it.

The normalized step bounds the contribution of a token, but the sum over hours of audio with little forgetting is not
bounded. Therefore each matrix of a memory, and its momentum, is projected onto the ball ``||M||_F <= R`` at the end of
each turn: after any number of turns, of any content, every matrix is at most R. Within a turn, n chunks add at most n
times the momentum and the gradients, which are bounded by R, the keys (of norm one) and the values. A memory in normal
use never reaches the bound, and is then not changed at all.

Values that strong forgetting has made tiny are set to zero before they become denormal, which would slow processors
down by up to a factor of a hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


# Root mean square of a matrix's entries: d_in^-1/2 in a new memory. Ten thousand turns of adversarial audio reach a
# twentieth of it (examples/benchmarks/stability.py).
MAX_RMS = 8.0

# Below these, a factor of a gradient and an entry of the state are set to zero.
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
        """The state made of these `tensors`."""
        tensors = tuple(tensors)
        depth = len(tensors) // 2
        return cls(tensors[:depth], tensors[depth:])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weights, then the momentum."""
        return (*self.weights, *self.momentum)

    def map(self, function: Callable[..., Tensor], *others: NeuralMemoryState) -> NeuralMemoryState:
        """The state with `function` applied to each of its tensors, together with the same tensors of `others`."""
        return self.from_tensors(map(function, self.tensors, *(other.tensors for other in others)))

    def __getitem__(self, streams: slice | Tensor) -> NeuralMemoryState:
        """The state of some streams: a slice or a tensor of indices."""
        return self.map(lambda tensor: tensor[streams])

    @staticmethod
    def concatenate(states: Sequence[NeuralMemoryState]) -> NeuralMemoryState:
        """Concatenate the streams of all states."""
        return states[0].map(lambda *tensors: torch.cat(tensors), *states[1:])

    def is_within_bounds(self) -> Tensor:
        """(streams,) bool, whether all matrices of a stream are finite and within `norm_bound`."""
        norms = [torch.linalg.vector_norm(matrix, dim=(-2, -1)) / norm_bound(matrix) for matrix in self.tensors]
        return torch.stack([norm <= 1.0 for norm in norms]).all(0).all(-1)


def norm_bound(matrix: Tensor) -> float:
    """R for a matrix (..., d_in, d_out): `MAX_RMS` times the square root of its number of entries."""
    return MAX_RMS * math.sqrt(matrix.shape[-2] * matrix.shape[-1])


def norm_limit(matrix: Tensor) -> Tensor:
    """(..., 1, 1), the factor of at most 1 that scales matrices (..., d_in, d_out) to at most `norm_bound`."""
    norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    return (norm_bound(matrix) / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)


def bound_state(state: NeuralMemoryState, *, clip: bool, in_place: bool = False) -> NeuralMemoryState:
    """Bound the state after a turn: set entries below `SMALLEST_ENTRY` to zero, and optionally clip its norm.

    Args:
        state: after the turn's chunks.
        clip: scale each matrix by its `norm_limit` as well.
        in_place: overwrite the matrices, if no gradients are needed.
    """
    if in_place:
        for matrix in state.tensors:
            torch.hardshrink(matrix.mul_(norm_limit(matrix)) if clip else matrix, SMALLEST_ENTRY, out=matrix)
        return state
    return state.map(lambda matrix: without_tiny(matrix * norm_limit(matrix) if clip else matrix, SMALLEST_ENTRY))


def without_tiny(tensor: Tensor, smallest: float) -> Tensor:
    """Set values below `smallest` to zero; the gradient is that of the identity."""
    if not (torch.is_grad_enabled() and tensor.requires_grad):
        return F.hardshrink(tensor, smallest)
    value = tensor.detach()
    return tensor + (F.hardshrink(value, smallest) - value)
