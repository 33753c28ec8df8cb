"""The gradients of reading and writing a chunk (`memory_step`), by hand.

Left to autograd, a chunk keeps many tensors of the size of its keys for the backward pass. This keeps the arguments
alone, the state and the tokens, most of which stand anyway, and computes the rest again: with two matrices, four
products of a token beside the 27 that it takes there and back.

With ``x_l`` what matrix l is applied to, ``z_l`` what it gives, s the SiLU and ``b_l`` the bound of the curvature (one
for the paper's rule), a chunk is

    up:    z_l = x_l W_l,  x_{l+1} = s(z_l)
    down:  delta_L = z_L - v,  delta_l = s'(z_l) (delta_{l+1} W_{l+1}^T)
    sums:  W_l' = A W_l + b S_l - sum_i (c_i / b_l) x_l,i^T delta_l,i
           S_l' = m S_l - sum_i (e_i / b_l) x_l,i^T delta_l,i

and its gradient goes through these lines from the last to the first. Where a matrix or a token enters several of them,
the gradients are summed in place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .hand_gradients import without_autocast
from .memory_chunks import MemoryChunk
from .memory_step import (
    SILU_SLOPE_SQUARED,
    add_product,
    curvature_bounds,
    half_gradients,
    hidden_pass,
    read_chunk,
    silu_backward,
    write_chunk,
)


def read_chunk_by_hand(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """`memory_step.read_chunk`, which can be differentiated once."""
    return _ReadChunk.apply(queries, *weights)


def write_chunk_by_hand(
    weights: tuple[Tensor, ...], momenta: tuple[Tensor, ...], chunk: MemoryChunk, step_rule: str
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`memory_step.write_chunk`, which can be differentiated once."""
    errors, *state = _WriteChunk.apply(step_rule, *chunk, *weights, *momenta)
    return errors, tuple(state[: len(weights)]), tuple(state[len(weights) :])


class _ReadChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, *weights):
        ctx.save_for_backward(queries, *weights)
        return read_chunk(weights, queries)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_answers):
        queries, *weights = ctx.saved_tensors
        grad_weights = [None] * len(weights)
        # A backward pass may be called within autocast, though the forward pass was not.
        with without_autocast(queries):
            inputs, outputs = hidden_pass(weights, queries.contiguous())
            grad_queries = _up_backward(weights, inputs, outputs, grad_answers.contiguous(), grad_weights)
        return grad_queries, *grad_weights


class _WriteChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step_rule, *tensors):
        ctx.step_rule = step_rule
        ctx.save_for_backward(*tensors)
        # None stands for what nobody used, such as the momentum after the last turn.
        ctx.set_materialize_grads(False)
        chunk, weights, momenta = _unflatten(tensors)
        errors, weights, momenta = write_chunk(weights, momenta, chunk, step_rule)
        ctx.mark_non_differentiable(errors)
        return errors, *weights, *momenta

    @staticmethod
    @once_differentiable
    def backward(ctx, _, *grad_state):
        chunk, weights, momenta = _unflatten(ctx.saved_tensors)
        if all(gradient is None for gradient in grad_state):
            return (None,) * len(ctx.needs_input_grad)
        grad_weights, grad_momenta = grad_state[: len(weights)], grad_state[len(weights) :]
        # Those of a fresh memory need none.
        momenta_need_grad = any(ctx.needs_input_grad[-len(momenta) :])
        with without_autocast(chunk.keys):
            grad_chunk, grad_weights, grad_momenta = _write_backward(
                weights, momenta, chunk, ctx.step_rule, grad_weights, grad_momenta, momenta_need_grad
            )
        return None, *grad_chunk, *grad_weights, *grad_momenta


def _unflatten(tensors) -> tuple[MemoryChunk, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The chunk, the weights and the momenta that were passed as one list."""
    count = len(MemoryChunk._fields)
    depth = (len(tensors) - count) // 2
    return MemoryChunk(*tensors[:count]), tuple(tensors[count : count + depth]), tuple(tensors[count + depth :])


def _write_backward(weights, momenta, chunk, step_rule, grad_weights, grad_momenta, momenta_need_grad):
    """The gradients of the chunk, and of weights and momenta before it, from those after it (None is zero)."""
    inputs, outputs = hidden_pass(weights, chunk.keys.contiguous())
    deltas, raised = half_gradients(weights, outputs, (inputs[-1] @ weights[-1]).sub_(chunk.values))
    bounds = curvature_bounds(weights, inputs) if step_rule == "normalized" else None

    factors = torch.cat([chunk.to_weights, chunk.to_momentum], dim=-1).neg_()  # the sums are subtracted
    grad_inputs, grad_deltas, grad_factors, grad_bounds = [], [], torch.zeros_like(factors), []
    for layer, grad_sums in enumerate(zip(grad_weights, grad_momenta)):
        scaled = factors if bounds is None else factors / bounds[layer]
        grad_input, grad_delta, grad_scaled = _sums_backward(inputs[layer], deltas[layer], scaled, grad_sums)
        if bounds is not None:
            grad_scaled /= bounds[layer]
            grad_bounds.append(-_dot(grad_scaled, scaled))
        grad_factors += grad_scaled
        grad_inputs.append(grad_input)
        grad_deltas.append(grad_delta)

    grad_weights, grad_momenta, *of_chunk = _state_backward(
        weights, momenta, chunk, grad_weights, grad_momenta, momenta_need_grad
    )
    if bounds is not None:
        _bounds_backward(weights, inputs, grad_bounds, grad_inputs, grad_weights)
    grad_outputs = _down_backward(weights, inputs, outputs, raised, deltas, grad_deltas, grad_weights)
    grad_values = -grad_deltas[-1]
    grad_keys = _up_backward(weights, inputs, outputs, grad_deltas[-1], grad_weights, grad_inputs, grad_outputs)
    return (grad_keys, grad_values, *grad_factors.neg_().split(1, dim=-1), *of_chunk), grad_weights, grad_momenta


def _sums_backward(inputs, deltas, factors, grad_sums):
    """Of ``sum_i f_i x_i^T delta_i`` for both columns f: the gradients of x, delta and f."""
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


def _state_backward(weights, momenta, chunk, grad_weights, grad_momenta, momenta_need_grad):
    """Of ``A W + b S`` and ``m S``: the gradients of all W, all S, A, b and m."""
    of_weights, of_momenta = [None] * len(weights), [None] * len(momenta)
    of_keep, of_carry, of_decay = map(torch.zeros_like, (chunk.keep, chunk.carry, chunk.decay))
    for layer, (grad_weight, grad_momentum) in enumerate(zip(grad_weights, grad_momenta)):
        # For the dot products; the last product stays, as the gradient.
        products = torch.empty_like(weights[layer], memory_format=torch.contiguous_format)
        if grad_momentum is not None:
            of_decay += _dot(grad_momentum, momenta[layer], out=products)
        if grad_weight is not None:
            of_carry += _dot(grad_weight, momenta[layer], out=products)
            of_keep += _dot(grad_weight, weights[layer], out=products)
            of_weights[layer] = torch.mul(grad_weight, chunk.keep, out=products)
        if momenta_need_grad:
            of_momenta[layer] = _add(_add(None, grad_weight, chunk.carry), grad_momentum, chunk.decay)
    return of_weights, of_momenta, of_keep, of_carry, of_decay


def _dot(a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.mul(a, b, out=out).sum((-2, -1), keepdim=True)


def _add(total: Tensor | None, tensor: Tensor | None, factor: Tensor) -> Tensor | None:
    """``total + tensor * factor``, in place; None is zero."""
    if tensor is None:
        return total
    return tensor * factor if total is None else total.addcmul_(tensor, factor)


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """``total + left @ right``, in place; None is zero."""
    return left @ right if total is None else add_product(total, left, right)


def _bounds_backward(weights, inputs, grad_bounds, grad_inputs, grad_weights) -> None:
    """Of `curvature_bounds`: the gradients of the inputs and of the matrices are added.

    A bound is ``1 + q_l p_{l+1} ... p_L``, with q the square norm of the largest input and p that of a matrix, times
    `SILU_SLOPE_SQUARED`.
    """
    slopes = [SILU_SLOPE_SQUARED * _dot(weight, weight) for weight in weights[1:]]
    behind = [torch.ones_like(grad_bounds[0])]
    for slope in reversed(slopes):
        behind.insert(0, behind[0] * slope)
    grad_behind = 0  # of p_{l+1} ... p_L, from the bounds before
    for layer, (x, grad_bound) in enumerate(zip(inputs, grad_bounds)):
        if layer:
            factor = 2 * SILU_SLOPE_SQUARED * grad_behind * behind[layer]
            grad_weights[layer] = _add(grad_weights[layer], weights[layer], factor)
            grad_behind = grad_behind * slopes[layer - 1]
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        largest = norms.amax(2, keepdim=True)
        is_largest = (norms == largest).to(x.dtype)
        share = is_largest / is_largest.sum(2, keepdim=True)  # as autograd shares the gradient among equal tokens
        grad_inputs[layer].addcmul_(x, 2 * grad_bound * behind[layer] * share)
        grad_behind = grad_behind + grad_bound * largest.square()


def _down_backward(weights, inputs, outputs, raised, deltas, grad_deltas, grad_weights) -> list[Tensor]:
    """Of the way down: the gradients of each z but the last; those of W and of each delta but the first are added."""
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
    """Of the way up, from the gradient of the last z: that of the first x; those of W are added.

    `grad_inputs` and `grad_outputs` are what the gradients of each x, and of each z but the last, consist of besides.
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
