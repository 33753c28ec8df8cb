"""One chunk of `neural_memory`: what is read before it, its tokens' gradients, and what they make of the state.

Plain differentiable tensor code. `memory_backward` is its gradient by hand, which keeps less.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .memory_chunks import MemoryChunk


# The largest slope of SiLU is 1.0998, so 1.21 bounds its square in the curvature bound of a hidden matrix.
SILU_SLOPE_SQUARED = 1.21


def write_chunk(
    weights: tuple[Tensor, ...],
    momenta: tuple[Tensor, ...],
    chunk: MemoryChunk,
    step_rule: str,
    *,
    in_place: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Write a chunk.

    ``M_n = A M_0 + b S_0 - sum_i c_i g_i`` and ``S_n = m S_0 - sum_i e_i g_i`` with the gradients g at M_0.

    Args:
        weights, momenta: M_0 and S_0, each (streams, heads, d_in, d_out).
        chunk: its tokens and factors.
        step_rule: as in `neural_memory.write_memory`.
        in_place: overwrite M_0 and S_0.

    Returns:
        The errors ``M_0(k) - v`` of the chunk's tokens, without a gradient; M_n; S_n.
    """
    inputs, outputs = hidden_pass(weights, chunk.keys)
    errors = inputs[-1] @ weights[-1] - chunk.values
    deltas, _ = half_gradients(weights, outputs, errors)
    bounds = curvature_bounds(weights, inputs) if step_rule == "normalized" else None
    new_weights, new_momenta = [], []
    for layer, (weight, momentum) in enumerate(zip(weights, momenta)):
        to_weights, to_momentum = chunk.to_weights, chunk.to_momentum
        if bounds is not None:
            to_weights, to_momentum = to_weights / bounds[layer], to_momentum / bounds[layer]
        if in_place:
            weight, momentum = weight.mul_(chunk.keep).addcmul_(momentum, chunk.carry), momentum.mul_(chunk.decay)
        else:
            weight, momentum = (weight * chunk.keep).addcmul_(momentum, chunk.carry), momentum * chunk.decay
        keys = inputs[layer].mT
        new_weights.append(add_product(weight, keys, to_weights * deltas[layer], sign=-1))
        new_momenta.append(add_product(momentum, keys, to_momentum * deltas[layer], sign=-1))
    return errors.detach(), tuple(new_weights), tuple(new_momenta)


def read_chunk(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """``M_0(q)``, (streams, heads, tokens, head_dim)."""
    inputs, _ = hidden_pass(weights, queries)
    return inputs[-1] @ weights[-1]


def add_product(matrix: Tensor, left: Tensor, right: Tensor, *, sign: int = 1) -> Tensor:
    """``matrix + sign * left @ right``, in place if contiguous: one pass over a matrix that nobody else holds."""
    batch = matrix.flatten(0, 1)
    return batch.baddbmm_(left.flatten(0, 1), right.flatten(0, 1), alpha=sign).view_as(matrix)


def hidden_pass(weights: tuple[Tensor, ...], inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What each matrix is applied to, and what each but the last gives, before the SiLU."""
    all_inputs, outputs = [inputs], []
    for weight in weights[:-1]:
        outputs.append(all_inputs[-1] @ weight)
        all_inputs.append(F.silu(outputs[-1]))
    return all_inputs, outputs


def half_gradients(
    weights: tuple[Tensor, ...], outputs: list[Tensor], errors: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Half the gradient of each token's loss by what each matrix gives, and by what each but the first is applied to.

    Each is (streams, heads, tokens, width); weights and outputs as `hidden_pass` has them, errors as `write_chunk`.
    """
    deltas, raised = [errors], []
    for weight, output in zip(weights[:0:-1], outputs[::-1]):
        raised.insert(0, deltas[0] @ weight.mT)
        deltas.insert(0, silu_backward(raised[0], output))
    return deltas, raised


def silu_backward(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of SiLU's input."""
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(gradient, inputs)  # one pass, which cannot be differentiated itself
    sigmoid = torch.sigmoid(inputs)
    return gradient * sigmoid * (1 + inputs * (1 - sigmoid))


def curvature_bounds(weights: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """One plus half a bound of the curvature of a token's loss in each matrix, each (streams, heads, 1, 1).

    The loss of one token is quadratic in the last matrix, with curvature 2 ||a||^2 for the input a (the largest of the
    chunk is taken); each SiLU and matrix between another one and the output multiplies that by at most 1.21 ||W||_F^2.
    Where there is no token, the inputs are zero.
    """
    bounds = []
    behind = None
    for layer in range(len(weights) - 1, -1, -1):
        largest = torch.linalg.vector_norm(inputs[layer], dim=-1).amax(-1)[..., None, None].square()
        bounds.insert(0, 1 + (largest if behind is None else largest * behind))
        if layer:
            slope = SILU_SLOPE_SQUARED * torch.linalg.vector_norm(weights[layer], dim=(-2, -1), keepdim=True).square()
            behind = slope if behind is None else behind * slope
    return bounds
