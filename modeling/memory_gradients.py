"""Hand-written gradients for the memory: reading and writing a chunk, bounding a state, norms and features.

Autograd would save many tensors of the size of a chunk's keys for the backward pass. The functions here save only
their arguments, the state and the tokens, most of which are kept anyway, and recompute the rest: with two matrices,
that is four products per token in addition to the 27 of a forward and backward pass.

With ``x_l`` the input of matrix l, ``z_l`` its output, s the SiLU and ``b_l`` the bound of the curvature (one for the
paper's rule), a chunk is

    up:    z_l = x_l W_l,  x_{l+1} = s(z_l)
    down:  delta_L = z_L - v,  delta_l = s'(z_l) (delta_{l+1} W_{l+1}^T)
    sums:  W_l' = A W_l + b S_l - sum_i (c_i / b_l) x_l,i^T delta_l,i
           S_l' = m S_l - sum_i (e_i / b_l) x_l,i^T delta_l,i

and the gradient is propagated through these lines from the last to the first. Where a matrix or a token occurs in
several of them, the gradients are accumulated in place.

A norm is ``y = x r`` with ``r = (sum_j x_j^2 / m + eps)^(-1/2)``, m the width for the RMS norm (Zhang and Sennrich
2019, arXiv 1910.07467, equation 4) and one for the L2 norm. Its gradient is ``r (g - y sum_j(g_j y_j) / m)``, which
needs only the output and one number per row, where autograd also saves the input. With scales, which may be zero, the
input is saved instead of the normalised rows.
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .memory_chunks import (
    SILU_SLOPE_SQUARED,
    MemoryChunk,
    add_product,
    curvature_bounds,
    half_gradients,
    hidden_pass,
    read_chunk,
    silu_backward,
    write_chunk,
)
from .memory_state import SMALLEST_ENTRY, NeuralMemoryState, norm_bound, norm_limit


def uses_manual_gradients() -> bool:
    """Whether autograd records operations; under `torch.compile` the plain form is differentiated and fused."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Disable autocast on the tensor's device within the context."""
    # The meta device, on which training memory is estimated, has no autocast.
    return contextlib.nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


# --- A chunk


def read_chunk_by_hand(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """`memory_chunks.read_chunk` with a hand-written gradient; once differentiable."""
    return _ReadChunk.apply(queries, *weights)


def write_chunk_by_hand(
    state: NeuralMemoryState, chunk: MemoryChunk, step_bound: str | None
) -> tuple[Tensor, NeuralMemoryState]:
    """`memory_chunks.write_chunk` with a hand-written gradient; once differentiable."""
    errors, *after = _WriteChunk.apply(step_bound, *chunk, *state.tensors)
    return errors, NeuralMemoryState.from_tensors(after)


class _ReadChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, *weights):
        ctx.save_for_backward(queries, *weights)
        return read_chunk(weights, queries)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_retrieved):
        queries, *weights = ctx.saved_tensors
        grad_weights = [None] * len(weights)
        # The backward pass may run under autocast even if the forward pass did not.
        with without_autocast(queries):
            inputs, outputs = hidden_pass(weights, queries.contiguous())
            grad_queries = _up_backward(weights, inputs, outputs, grad_retrieved.contiguous(), grad_weights)
        return grad_queries, *grad_weights


class _WriteChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step_bound, *tensors):
        ctx.step_bound = step_bound
        ctx.save_for_backward(*tensors)
        # Outputs that were not used, such as the momentum after the last turn, have the gradient None.
        ctx.set_materialize_grads(False)
        errors, state = write_chunk(*_unflatten(tensors), step_bound)
        ctx.mark_non_differentiable(errors)
        return errors, *state.tensors

    @staticmethod
    @once_differentiable
    def backward(ctx, _, *grad_state):
        state, chunk = _unflatten(ctx.saved_tensors)
        if all(gradient is None for gradient in grad_state):
            return (None,) * len(ctx.needs_input_grad)
        # The momentum of a new memory needs no gradient.
        momentum_needs_grad = any(ctx.needs_input_grad[-len(state.momentum) :])
        with without_autocast(chunk.keys):
            grad_chunk, grad_weights, grad_momentum = _write_backward(
                state, chunk, ctx.step_bound, NeuralMemoryState.from_tensors(grad_state), momentum_needs_grad
            )
        return None, *grad_chunk, *grad_weights, *grad_momentum


def _unflatten(tensors) -> tuple[NeuralMemoryState, MemoryChunk]:
    """The state and the chunk that were passed as one list, the chunk first."""
    count = len(MemoryChunk._fields)
    return NeuralMemoryState.from_tensors(tensors[count:]), MemoryChunk(*tensors[:count])


def _write_backward(state, chunk, step_bound, grad_state, momentum_needs_grad):
    """The gradients of the chunk, and of weights and momentum before it, from those after it (None means zero)."""
    weights = state.weights
    inputs, outputs = hidden_pass(weights, chunk.keys.contiguous())
    deltas, raised = half_gradients(weights, outputs, (inputs[-1] @ weights[-1]).sub_(chunk.values))
    bounds = None if step_bound is None else curvature_bounds(weights, inputs, chunk.length, step_bound)

    factors = torch.cat([chunk.to_weights, chunk.to_momentum], dim=-1).neg_()  # the sums are subtracted
    grad_inputs, grad_deltas, grad_factors, grad_bounds = [], [], torch.zeros_like(factors), []
    for layer, grad_sums in enumerate(zip(grad_state.weights, grad_state.momentum)):
        scaled = factors if bounds is None else factors / bounds[layer]
        grad_input, grad_delta, grad_scaled = _sums_backward(inputs[layer], deltas[layer], scaled, grad_sums)
        if bounds is not None:
            grad_scaled /= bounds[layer]
            grad_bounds.append(-_dot(grad_scaled, scaled))
        grad_factors += grad_scaled
        grad_inputs.append(grad_input)
        grad_deltas.append(grad_delta)

    grad_weights, grad_momentum, *of_chunk = _state_backward(state, chunk, grad_state, momentum_needs_grad)
    if step_bound == "token":
        _bounds_backward(weights, inputs, grad_bounds, grad_inputs, grad_weights)
    grad_outputs = _down_backward(weights, inputs, outputs, raised, deltas, grad_deltas, grad_weights)
    grad_values = -grad_deltas[-1]
    grad_keys = _up_backward(weights, inputs, outputs, grad_deltas[-1], grad_weights, grad_inputs, grad_outputs)
    of_chunk = grad_keys, grad_values, *grad_factors.neg_().split(1, dim=-1), *of_chunk
    return (*of_chunk, None), grad_weights, grad_momentum  # None: the length has no gradient


def _sums_backward(inputs, deltas, factors, grad_sums):
    """Backward of ``sum_i f_i x_i^T delta_i`` for both columns f: the gradients of x, delta and f."""
    grad_inputs = grad_deltas = None
    grad_factors = torch.zeros_like(factors)
    for column, grad_sum in enumerate(grad_sums):
        if grad_sum is not None:
            factor = factors[..., column, None]
            product = inputs @ grad_sum
            grad_deltas = _add(grad_deltas, product, factor)
            grad_factors[..., column] = product.mul_(deltas).sum(-1)
            grad_inputs = _add_product(grad_inputs, torch.mul(deltas, factor, out=product), grad_sum.mT)
    if grad_deltas is None:
        return torch.zeros_like(inputs), torch.zeros_like(deltas), grad_factors
    return grad_inputs, grad_deltas, grad_factors


def _state_backward(state, chunk, grad_state, momentum_needs_grad):
    """Backward of ``A W + b S`` and ``m S``: the gradients of all W, all S, A, b and m."""
    of_weights, of_momentum = [None] * len(state.weights), [None] * len(state.momentum)
    of_keep, of_carry, of_decay = map(torch.zeros_like, (chunk.keep, chunk.carry, chunk.decay))
    pairs = zip(state.weights, state.momentum, grad_state.weights, grad_state.momentum)
    for layer, (weight, momentum, grad_weight, grad_momentum) in enumerate(pairs):
        # Buffer for the dot products; the last product is kept as the gradient.
        products = torch.empty_like(weight, memory_format=torch.contiguous_format)
        if grad_momentum is not None:
            of_decay += _dot(grad_momentum, momentum, out=products)
        if grad_weight is not None:
            of_carry += _dot(grad_weight, momentum, out=products)
            of_keep += _dot(grad_weight, weight, out=products)
            of_weights[layer] = torch.mul(grad_weight, chunk.keep, out=products)
        if momentum_needs_grad:
            of_momentum[layer] = _add(_add(None, grad_weight, chunk.carry), grad_momentum, chunk.decay)
    return of_weights, of_momentum, of_keep, of_carry, of_decay


def _dot(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.mul(a, b, out=out).sum((-2, -1), keepdim=True)


def _add(total: Tensor | None, tensor: Tensor | None, factor: Tensor) -> Tensor | None:
    """``total + tensor * factor``, in place; None means zero."""
    if tensor is None:
        return total
    return tensor * factor if total is None else total.addcmul_(tensor, factor)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right``, in place; None means zero."""
    return left @ right if total is None else add_product(total, left, right)


def _bounds_backward(weights, inputs, grad_bounds, grad_inputs, grad_weights) -> None:
    """Backward of `curvature_bounds` for "token": adds the gradients of the inputs and of the matrices.

    A bound is ``1 + q_l p_{l+1} ... p_L``, with q the square norm of the largest input and p that of a matrix, times
    `SILU_SLOPE_SQUARED`.
    """
    slopes = [SILU_SLOPE_SQUARED * _dot(weight, weight) for weight in weights[1:]]
    behind = [torch.ones_like(grad_bounds[0])]
    for slope in reversed(slopes):
        behind.insert(0, behind[0] * slope)
    grad_behind: Tensor | float = 0.0  # of p_{l+1} ... p_L, from the previous bounds
    for layer, (x, grad_bound) in enumerate(zip(inputs, grad_bounds)):
        if layer:
            factor = 2 * SILU_SLOPE_SQUARED * grad_behind * behind[layer]
            grad_weights[layer] = _add(grad_weights[layer], weights[layer], factor)
            grad_behind = grad_behind * slopes[layer - 1]
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        largest = norms.amax(2, keepdim=True)
        is_largest = (norms == largest).to(x.dtype)
        share = is_largest / is_largest.sum(2, keepdim=True)  # as autograd splits the gradient among equal tokens
        grad_inputs[layer].addcmul_(x, 2 * grad_bound * behind[layer] * share)
        grad_behind = grad_behind + grad_bound * largest.square()


def _down_backward(weights, inputs, outputs, raised, deltas, grad_deltas, grad_weights) -> list[Tensor]:
    """Backward of "down": returns the gradients of each z but the last; adds those of W and of later deltas."""
    grad_outputs = []
    for layer, output in enumerate(outputs):
        # s'' = sigmoid' (2 + z - 2 s(z))
        bend = torch.sub(output, inputs[layer + 1], alpha=2).add_(2)
        grad_outputs.append(
            torch.ops.aten.sigmoid_backward(bend.mul_(raised[layer]).mul_(grad_deltas[layer]), torch.sigmoid(output))
        )
        grad_raised = silu_backward(grad_deltas[layer], output)
        grad_weights[layer + 1] = _add_product(grad_weights[layer + 1], grad_raised.mT, deltas[layer + 1])
        add_product(grad_deltas[layer + 1], grad_raised, weights[layer + 1])
    return grad_outputs


def _up_backward(weights, inputs, outputs, grad_output, grad_weights, grad_inputs=None, grad_outputs=None) -> Tensor:
    """Backward of "up", from the gradient of the last z: returns that of the first x; adds those of W.

    `grad_inputs` and `grad_outputs` are other contributions to the gradients of each x, and of each z but the last.
    """
    for layer in range(len(weights) - 1, -1, -1):
        grad_weights[layer] = _add_product(grad_weights[layer], inputs[layer].mT, grad_output)
        total = None if grad_inputs is None else grad_inputs[layer]
        grad_input = _add_product(total, grad_output, weights[layer].mT)
        if layer:
            grad_output = silu_backward(grad_input, outputs[layer - 1])
            if grad_outputs is not None:
                grad_output += grad_outputs[layer - 1]
    return grad_input


# --- The bound of a state


def bound_state_by_hand(state: NeuralMemoryState) -> NeuralMemoryState:
    """`memory_state.bound_state` with `clip` and a hand-written gradient, which saves only the result."""
    return NeuralMemoryState.from_tensors(_BoundState.apply(*state.tensors))


class _BoundState(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *matrices):
        limits = [norm_limit(matrix) for matrix in matrices]
        bounded = [F.hardshrink(matrix * limit, SMALLEST_ENTRY) for matrix, limit in zip(matrices, limits)]
        ctx.save_for_backward(*bounded, *limits)
        ctx.set_materialize_grads(False)
        return tuple(bounded)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        kept = ctx.saved_tensors
        return tuple(map(_bound_backward, gradients, kept[: len(gradients)], kept[len(gradients) :]))


def _bound_backward(gradient: Tensor | None, bounded: Tensor, limit: Tensor) -> Tensor | None:
    """``g -> s (g - y <g, y> / R^2)`` for ``y = s x`` on the sphere of radius R; inside the ball, g itself."""
    if gradient is None:
        return None
    lost = (limit < 1).to(limit.dtype) / norm_bound(bounded) ** 2
    along = (gradient * bounded).sum((-2, -1), keepdim=True) * -lost
    return torch.addcmul(gradient, bounded, along).mul_(limit)


# --- The norms


def l2_normalize(tensor: Tensor) -> Tensor:
    """Scale each row of the tensor (..., width) to an L2 norm of one; rows of zeros stay zero. Contiguous."""
    return _norm(tensor, 1, 1e-24)  # the square of the smallest norm in `F.normalize`


def rms_normalize(tensor: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each row of the tensor (..., width) to a root mean square of one; rows of zeros stay zero. Contiguous."""
    return _norm(tensor, tensor.shape[-1], eps)


def scaled_rms_normalize(tensor: Tensor, scales: Tensor, eps: float) -> Tensor:
    """`rms_normalize` times `scales`, (width,)."""
    if uses_manual_gradients():
        return _ScaledRMSNorm.apply(tensor, scales, eps)
    return _normalized(tensor, tensor.shape[-1], eps)[0] * scales


def _norm(tensor: Tensor, divisor: int, eps: float) -> Tensor:
    if uses_manual_gradients():
        return _Norm.apply(tensor, divisor, eps)
    return _normalized(tensor, divisor, eps)[0]


def _normalized(tensor: Tensor, divisor: int, eps: float) -> tuple[Tensor, Tensor]:
    """y, contiguous, and r of the module's docstring, (..., 1)."""
    # The norm is one pass over memory; squaring and summing would be two.
    inverse_root = (torch.linalg.vector_norm(tensor, dim=-1, keepdim=True).square() / divisor + eps).rsqrt()
    # Heads are a transposed view, but matrix products are faster on contiguous tensors.
    if torch.compiler.is_compiling():
        return (tensor * inverse_root).contiguous(), inverse_root
    return torch.mul(tensor, inverse_root, out=tensor.new_empty(tensor.shape)), inverse_root


def _norm_backward(gradient: Tensor, output: Tensor, inverse_root: Tensor, divisor: int) -> Tensor:
    along = (gradient * output).sum(-1, keepdim=True) / -divisor
    return torch.addcmul(gradient, output, along).mul_(inverse_root)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, divisor, eps):
        output, inverse_root = _normalized(tensor, divisor, eps)
        ctx.save_for_backward(output, inverse_root)
        ctx.divisor = divisor
        # The gradient is None for unused outputs: the keys of a turn that no later turn reads.
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        if gradient is None:
            return None, None, None
        return _norm_backward(gradient, *ctx.saved_tensors, ctx.divisor), None, None


class _ScaledRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, weight, eps):
        output, inverse_root = _normalized(tensor, tensor.shape[-1], eps)
        ctx.save_for_backward(tensor, weight, inverse_root)
        return output.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        tensor, weight, inverse_root = ctx.saved_tensors
        unscaled = tensor * inverse_root
        of_tensor = of_weight = None
        if ctx.needs_input_grad[0]:
            of_tensor = _norm_backward(gradient * weight, unscaled, inverse_root, tensor.shape[-1])
        if ctx.needs_input_grad[1]:
            of_weight = unscaled.mul_(gradient).flatten(0, -2).sum(0)
        return of_tensor, of_weight, None


# --- Features of keys and queries


def quadratic_features(tensor: Tensor) -> Tensor:
    """All monomials of degree 2 of rows (..., d), as (..., d (d + 1) / 2); their inner product is <x, y>^2.

    They are x_i x_j for i <= j, those with i < j times the root of 2. Rows of norm one have features of norm one.
    """
    return _QuadraticFeatures.apply(tensor) if uses_manual_gradients() else _quadratic(tensor)


def _quadratic(tensor: Tensor) -> Tensor:
    rows, columns, scales = _monomials(tensor)
    return tensor[..., rows] * tensor[..., columns] * scales


def _monomials(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pair of entries that each monomial multiplies, and its scale."""
    rows, columns = torch.triu_indices(tensor.shape[-1], tensor.shape[-1], device=tensor.device)
    scales = torch.ones(rows.shape, dtype=tensor.dtype, device=tensor.device)
    return rows, columns, scales.masked_fill(rows != columns, math.sqrt(2))


class _QuadraticFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        ctx.save_for_backward(tensor)
        ctx.set_materialize_grads(False)
        return _quadratic(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        if gradient is None:
            return None
        (tensor,) = ctx.saved_tensors
        rows, columns, scales = _monomials(tensor)
        gradient = gradient * scales
        of_tensor = torch.zeros_like(tensor).index_add_(-1, rows, gradient * tensor[..., columns])
        return of_tensor.index_add_(-1, columns, gradient * tensor[..., rows])
