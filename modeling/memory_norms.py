"""Norms of a memory layer whose backward pass keeps no more than it must.

``y = x r`` with ``r = (sum_j x_j^2 / m + eps)^(-1/2)``, m the width for the RMS norm (Zhang and Sennrich 2019, arXiv
1910.07467, equation 4) and one for the L2 norm, has the gradient ``r (g - y sum_j(g_j y_j) / m)``: what it gives and
a number per row are enough, where autograd keeps what goes in as well. With scales, which may be zero, what goes in is
kept, and not the normed rows beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .hand_gradients import goes_by_hand


def l2_normalize(tensor: Tensor) -> Tensor:
    """The tensor (..., width) with rows of L2 norm one, zero where they are zero; contiguous."""
    return _norm(tensor, 1, 1e-24)  # the square of what `F.normalize` takes for the smallest norm


def rms_normalize(tensor: Tensor, eps: float = 1e-6) -> Tensor:
    """The tensor (..., width) with rows of root mean square one, zero where they are zero; contiguous."""
    return _norm(tensor, tensor.shape[-1], eps)


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` over the last dimension, with scales; once differentiable.

    Args:
        width: of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, width: int, *, eps: float = 1e-6):
        super().__init__(width, eps=eps)

    def forward(self, tensor: Tensor) -> Tensor:
        if goes_by_hand():
            return _ScaledRMSNorm.apply(tensor, self.weight, self.eps)
        return rms_normalize(tensor, self.eps) * self.weight


def _norm(tensor: Tensor, divisor: int, eps: float) -> Tensor:
    if goes_by_hand():
        return _Norm.apply(tensor, divisor, eps)
    return _multiply(tensor, _inverse_root(tensor, divisor, eps))


def _inverse_root(tensor: Tensor, divisor: int, eps: float) -> Tensor:
    """r of the module's docstring, (..., 1)."""
    # The norm is one pass, a square and a sum are two.
    return (torch.linalg.vector_norm(tensor, dim=-1, keepdim=True).square() / divisor + eps).rsqrt()


def _multiply(tensor: Tensor, scale: Tensor) -> Tensor:
    # Heads come as a transposed view; products want them contiguous.
    if torch.compiler.is_compiling():
        return (tensor * scale).contiguous()
    return torch.mul(tensor, scale, out=tensor.new_empty(tensor.shape))


def _backward(gradient: Tensor, output: Tensor, inverse_root: Tensor, divisor: int) -> Tensor:
    along = (gradient * output).sum(-1, keepdim=True) / -divisor
    return torch.addcmul(gradient, output, along).mul_(inverse_root)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, divisor, eps):
        inverse_root = _inverse_root(tensor, divisor, eps)
        output = _multiply(tensor, inverse_root)
        ctx.save_for_backward(output, inverse_root)
        ctx.divisor = divisor
        # None stands for what nobody used: the keys of a turn that no later one reads.
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        if gradient is None:
            return None, None, None
        return _backward(gradient, *ctx.saved_tensors, ctx.divisor), None, None


class _ScaledRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, weight, eps):
        inverse_root = _inverse_root(tensor, tensor.shape[-1], eps)
        ctx.save_for_backward(tensor, weight, inverse_root)
        return _multiply(tensor, inverse_root).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        tensor, weight, inverse_root = ctx.saved_tensors
        unscaled = tensor * inverse_root
        of_tensor = of_weight = None
        if ctx.needs_input_grad[0]:
            of_tensor = _backward(gradient * weight, unscaled, inverse_root, tensor.shape[-1])
        if ctx.needs_input_grad[1]:
            of_weight = unscaled.mul_(gradient).flatten(0, -2).sum(0)
        return of_tensor, of_weight, None
