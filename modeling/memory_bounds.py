"""How large a memory may become, and what is done where it would become larger.

The normalized step bounds what a token adds, but nothing in the recurrence bounds a sum over hours whose gates forget
little. So a memory that is written by it is projected, at the end of each call, onto the ball ``||M||_F <= R`` of each
matrix, and its momentum likewise: after any number of turns, of any content, every matrix is at most R. In between, a
call of n chunks can add no more than n times the momentum and the gradients, all of which are bounded by R, the keys
(of norm one) and the values. A memory that is used as it is meant to be never gets there, and is left bit for bit.

At the other end, numbers that strong forgetting has made tiny are taken for zero before they are denormal, with which
processors compute up to a hundred times slower.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


# Root mean square of a matrix's entries: d_in^-1/2 in a fresh memory, 0.42 in the shipped checkpoint after 72 turns.
MAX_RMS = 8.0

# Below these a factor of a gradient, and an entry of the state, are zero.
SMALLEST_FACTOR, SMALLEST_ENTRY = 1e-20, 1e-30


def norm_bound(matrix: Tensor) -> float:
    """R of a memory's matrix (..., d_in, d_out): `MAX_RMS` times the root of its number of entries."""
    return MAX_RMS * math.sqrt(matrix.shape[-2] * matrix.shape[-1])


def limit_norm(matrix: Tensor) -> Tensor:
    """The matrix (..., d_in, d_out), scaled down to `norm_bound` in the Frobenius norm where it is larger."""
    norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    return matrix * (norm_bound(matrix) / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)


def is_within_bounds(matrices: tuple[Tensor, ...]) -> Tensor:
    """(streams,) bool, whether all matrices (streams, heads, d_in, d_out) of a stream are finite and within bounds."""
    norms = [torch.linalg.vector_norm(matrix, dim=(-2, -1)) / norm_bound(matrix) for matrix in matrices]
    return torch.stack([norm <= 1.0 for norm in norms]).all(0).all(-1)


def without_tiny(tensor: Tensor, smallest: float) -> Tensor:
    """The tensor with zero for what is below `smallest`; its gradient is that of the tensor, also there."""
    if not (torch.is_grad_enabled() and tensor.requires_grad):
        return F.hardshrink(tensor, smallest)
    value = tensor.detach()
    return tensor + (F.hardshrink(value, smallest) - value)
