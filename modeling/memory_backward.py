"""The gradient of a chunk's update (`memory_step`), by hand.

Left to autograd, a chunk of a memory of two matrices keeps a dozen tensors of the size of its keys for the backward
pass beside its arguments, and one of a single matrix three. This keeps the arguments, the state and the tokens, most
of which stand anyway, and computes the rest again: with two matrices, four products of a token beside the 27 that it
takes there and back.

With ``x_l`` what matrix l is applied to, ``z_l`` what it gives, s the SiLU and ``b_l`` the bound of the curvature (one
for the paper's rule), a chunk is

    up:    z_l = x_l W_l,  x_{l+1} = s(z_l)
    down:  delta_L = z_L - v,  delta_l = s'(z_l) (delta_{l+1} W_{l+1}^T)
    sums:  W_l' = A W_l + b S_l - sum_i (c_i / b_l) x_l,i^T delta_l,i
           S_l' = m S_l - sum_i (e_i / b_l) x_l,i^T delta_l,i

and its gradient goes through these lines from the last to the first. All that a matrix or a token takes part in is
added in place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .memory_chunks import MemoryChunk
from .memory_step import (
    SILU_SLOPE_SQUARED,
    add_product,
    curvature_bounds,
    hidden_pass,
    read_and_write_chunk,
    without_autocast,
)


# Of SiLU, from the gradient and the input, and of the sigmoid, from the gradient and the value; each in one pass.
_silu_backward, _sigmoid_backward = torch.ops.aten.silu_backward, torch.ops.aten.sigmoid_backward


def read_and_write_chunk_by_hand(
    weights: tuple[Tensor, ...],
    momenta: tuple[Tensor, ...],
    chunk: MemoryChunk,
    queries: Tensor | None,
    step_rule: str,
) -> tuple[Tensor | None, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`memory_step.read_and_write_chunk`, which can be differentiated once."""
    answers, *state = _ReadAndWriteChunk.apply(step_rule, queries, *chunk, *weights, *momenta)
    return answers, tuple(state[: len(weights)]), tuple(state[len(weights) :])


class _ReadAndWriteChunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step_rule, queries, *tensors):
        ctx.step_rule = step_rule
        ctx.save_for_backward(queries, *tensors)
        # None stands for what nobody used, such as the state after a call's last chunk.
        ctx.set_materialize_grads(False)
        chunk, weights, momenta = _take_apart(tensors)
        answers, weights, momenta = read_and_write_chunk(weights, momenta, chunk, queries, step_rule)
        return answers, *weights, *momenta

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        queries, *tensors = ctx.saved_tensors
        # A backward pass may be called within autocast, though the forward pass was not.
        with without_autocast(tensors[0]):
            return None, *_chunk_backward(queries, *_take_apart(tensors), ctx.step_rule, *gradients)


def _take_apart(tensors) -> tuple[MemoryChunk, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The chunk, the weights and the momenta that were passed as one list."""
    count = len(MemoryChunk._fields)
    depth = (len(tensors) - count) // 2
    return MemoryChunk(*tensors[:count]), tuple(tensors[count : count + depth]), tuple(tensors[count + depth :])


def _zeros_like(tensor: Tensor) -> Tensor:
    # Contiguous, to be added to in place; what goes in may be an expanded or transposed view.
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)


def _chunk_backward(queries, chunk, weights, momenta, step_rule, grad_answers, *grad_state) -> list[Tensor | None]:
    """The gradients of queries, chunk, weights and momenta, in the order of the arguments of `apply`."""
    grad_weights, grad_momenta = grad_state[: len(weights)], grad_state[len(weights) :]
    grad_queries, grad_chunk = None, [None] * len(chunk)
    if any(gradient is not None for gradient in grad_state):
        grad_chunk, grad_weights, grad_momenta = _write_backward(
            weights, momenta, chunk, step_rule, grad_weights, grad_momenta
        )
    else:
        grad_weights = list(map(_zeros_like, weights))
    if grad_answers is not None:
        inputs, outputs = hidden_pass(weights, queries.contiguous())
        grad_queries = _up_backward(weights, inputs, outputs, grad_answers.contiguous(), grad_weights)
    return [grad_queries, *grad_chunk, *grad_weights, *grad_momenta]


def _write_backward(weights, momenta, chunk, step_rule, grad_weights, grad_momenta):
    """The gradients of the chunk, and of weights and momenta before it, from those after it (None is zero)."""
    inputs, outputs = hidden_pass(weights, chunk.keys.contiguous())
    raised, deltas = [], [inputs[-1] @ weights[-1] - chunk.values]  # raised: delta_{l+1} W_{l+1}^T
    for weight, output in zip(weights[:0:-1], outputs[::-1]):
        raised.insert(0, deltas[0] @ weight.mT)
        deltas.insert(0, _silu_backward(raised[0], output))
    bounds = curvature_bounds(weights, inputs) if step_rule == "normalized" else None

    grad_inputs, grad_deltas = list(map(_zeros_like, inputs)), list(map(_zeros_like, deltas))
    factors = torch.cat([chunk.to_weights, chunk.to_momentum], dim=-1)
    grad_factors, grad_bounds = torch.zeros_like(factors), []
    for layer, grad_sums in enumerate(zip(grad_weights, grad_momenta)):
        scaled = factors if bounds is None else factors / bounds[layer]
        tokens = inputs[layer], deltas[layer], scaled
        grad_scaled = _sums_backward(*tokens, grad_sums, grad_inputs[layer], grad_deltas[layer])
        if bounds is not None:
            grad_scaled /= bounds[layer]
            grad_bounds.append(-_dot(grad_scaled, scaled))
        grad_factors += grad_scaled

    grad_weights, grad_momenta, *of_chunk = _state_backward(weights, momenta, chunk, grad_weights, grad_momenta)
    if bounds is not None:
        _bounds_backward(weights, inputs, grad_bounds, grad_inputs, grad_weights)
    grad_outputs = _down_backward(weights, inputs, outputs, raised, deltas, grad_deltas, grad_weights)
    grad_keys = _up_backward(weights, inputs, outputs, grad_deltas[-1], grad_weights, grad_inputs, grad_outputs)
    return (grad_keys, -grad_deltas[-1], *grad_factors.split(1, dim=-1), *of_chunk), grad_weights, grad_momenta


def _sums_backward(inputs, deltas, factors, grad_sums, grad_inputs, grad_deltas) -> Tensor:
    """Of ``-sum_i f_i x_i^T delta_i`` for both columns f: the gradient of f; those of x and delta are added."""
    grad_factors = torch.zeros_like(factors)
    for column, grad_sum in enumerate(grad_sums):
        if grad_sum is not None:
            factor = factors[..., column, None]
            product = inputs @ grad_sum
            grad_deltas.addcmul_(product, factor, value=-1)
            add_product(grad_inputs, deltas * factor, grad_sum.mT, sign=-1)
            grad_factors[..., column] = product.mul_(deltas).sum(-1).neg_()
    return grad_factors


def _state_backward(weights, momenta, chunk, grad_weights, grad_momenta):
    """Of ``A W + b S`` and ``m S``: the gradients of all W, all S, A, b and m."""
    of_weights, of_momenta = list(map(_zeros_like, weights)), list(map(_zeros_like, momenta))
    of_keep, of_carry, of_decay = map(_zeros_like, (chunk.keep, chunk.carry, chunk.decay))
    for layer, (weight, momentum) in enumerate(zip(weights, momenta)):
        if grad_weights[layer] is not None:
            of_weights[layer].addcmul_(grad_weights[layer], chunk.keep)
            of_momenta[layer].addcmul_(grad_weights[layer], chunk.carry)
            of_keep += _dot(grad_weights[layer], weight)
            of_carry += _dot(grad_weights[layer], momentum)
        if grad_momenta[layer] is not None:
            of_momenta[layer].addcmul_(grad_momenta[layer], chunk.decay)
            of_decay += _dot(grad_momenta[layer], momentum)
    return of_weights, of_momenta, of_keep, of_carry, of_decay


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


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
            grad_weights[layer].addcmul_(weights[layer], 2 * SILU_SLOPE_SQUARED * grad_behind * behind[layer])
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
        grad_outputs.append(_sigmoid_backward(grad_deltas[layer] * raised[layer], torch.sigmoid(output)).mul_(bend))
        grad_raised = _silu_backward(grad_deltas[layer], output)
        add_product(grad_weights[layer + 1], grad_raised.mT, deltas[layer + 1])
        add_product(grad_deltas[layer + 1], grad_raised, weights[layer + 1])
    return grad_outputs


def _up_backward(weights, inputs, outputs, grad_output, grad_weights, grad_inputs=None, grad_outputs=None) -> Tensor:
    """Of the way up, from the gradient of the last z: that of the first x; those of W are added.

    `grad_inputs` and `grad_outputs` are what the gradients of each x, and of each z but the last, consist of besides.
    """
    for layer in range(len(weights) - 1, -1, -1):
        add_product(grad_weights[layer], inputs[layer].mT, grad_output)
        if grad_inputs is None:
            grad_input = grad_output @ weights[layer].mT
        else:
            grad_input = add_product(grad_inputs[layer], grad_output, weights[layer].mT)
        if layer:
            grad_output = _silu_backward(grad_input, outputs[layer - 1])
            if grad_outputs is not None:
                grad_output += grad_outputs[layer - 1]
    return grad_input
