"""The norms of queries, keys and values, which keep for the backward pass only what they give.

PyTorch's keep what goes in as well: one more tensor of the size of the keys for each of the three.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def l2_normalize(x: Tensor) -> Tensor:
    """`torch.nn.functional.normalize` over the last dimension."""
    return _l2(x)[0] if torch.compiler.is_compiling() else _Normalize.apply(x, _l2, 1.0)


def rms_normalize(x: Tensor) -> Tensor:
    """`torch.nn.functional.rms_norm` over the last dimension, with an epsilon of 1e-6."""
    return _rms(x)[0] if torch.compiler.is_compiling() else _Normalize.apply(x, _rms, 1 / x.shape[-1])


def _l2(x: Tensor) -> tuple[Tensor, Tensor]:
    """``y = r x`` and r."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
    return x / norm, 1 / norm


def _rms(x: Tensor) -> tuple[Tensor, Tensor]:
    """``y = r x`` and r."""
    factor = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return x * factor, factor


class _Normalize(torch.autograd.Function):
    """``y = r x``, where the gradient of r is ``-share r^2 y``: that of x is ``r (g - share <g, y> y)``."""

    @staticmethod
    def forward(ctx, x, norm, share):
        value, factor = norm(x)
        ctx.save_for_backward(value, factor)
        ctx.share = share
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        value, factor = ctx.saved_tensors
        along = -ctx.share * (gradient * value).sum(-1, keepdim=True)
        return torch.addcmul(gradient, value, along).mul_(factor), None, None
