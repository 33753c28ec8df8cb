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
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .hand_gradients import goes_by_hand


# Root mean square of a matrix's entries: d_in^-1/2 in a fresh memory. Ten thousand turns of the worst kinds come to a
# twentieth of it (examples/benchmarks/stability.py).
MAX_RMS = 8.0

# Below these a factor of a gradient, and an entry of the state, are zero.
SMALLEST_FACTOR, SMALLEST_ENTRY = 1e-20, 1e-30


def norm_bound(matrix: Tensor) -> float:
    """R of a memory's matrix (..., d_in, d_out): `MAX_RMS` times the root of its number of entries."""
    return MAX_RMS * math.sqrt(matrix.shape[-2] * matrix.shape[-1])


def limit_norm(matrix: Tensor) -> Tensor:
    """The matrix (..., d_in, d_out), scaled down to `norm_bound` in the Frobenius norm where it is larger."""
    return matrix * _scale(matrix)


def _scale(matrix: Tensor) -> Tensor:
    """What brings each matrix to its bound, at most one, (..., 1, 1)."""
    norm = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    return (norm_bound(matrix) / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0)


def bound_state(matrices: tuple[Tensor, ...], *, clip: bool, in_place: bool = False) -> tuple[Tensor, ...]:
    """What a call leaves of its matrices: entries below `SMALLEST_ENTRY` are zero.

    Args:
        matrices: each (..., d_in, d_out).
        clip: `limit_norm` as well; once differentiable.
        in_place: overwrite the matrices, where no gradients are wanted.
    """
    if in_place:
        for matrix in matrices:
            torch.hardshrink(matrix.mul_(_scale(matrix)) if clip else matrix, SMALLEST_ENTRY, out=matrix)
        return matrices
    if clip and goes_by_hand():
        return _ClipNorms.apply(*matrices)
    return tuple(without_tiny(limit_norm(matrix) if clip else matrix, SMALLEST_ENTRY) for matrix in matrices)


class _ClipNorms(torch.autograd.Function):
    """`bound_state` with `clip`, which keeps its results alone: they are what the next call starts from."""

    @staticmethod
    def forward(ctx, *matrices):
        scales = [_scale(matrix) for matrix in matrices]
        clipped = [F.hardshrink(matrix * scale, SMALLEST_ENTRY) for matrix, scale in zip(matrices, scales)]
        ctx.save_for_backward(*clipped, *scales)
        ctx.set_materialize_grads(False)
        return tuple(clipped)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        kept = ctx.saved_tensors
        return tuple(map(_clip_backward, gradients, kept[: len(gradients)], kept[len(gradients) :]))


def _clip_backward(gradient: Tensor | None, clipped: Tensor, scale: Tensor) -> Tensor | None:
    """``g -> s (g - y <g, y> / R^2)`` for ``y = s x`` on the sphere of radius R, and g within it."""
    if gradient is None:
        return None
    lost = (scale < 1).to(scale.dtype) / norm_bound(clipped) ** 2
    along = (gradient * clipped).sum((-2, -1), keepdim=True) * -lost
    return torch.addcmul(gradient, clipped, along).mul_(scale)


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
