"""One chunk of a memory: the gradients of its tokens, and the resulting state in closed form.

Within a chunk the recurrence of `neural_memory` is linear in the gradients, which are outer products taken at the
chunk's initial weights. The effect of the gates can therefore be computed for all chunks before any gradient
(`cut_into_chunks`), and the state after a chunk is a weighted sum, computed by one matrix product (`write_chunk`).

This is plain differentiable tensor code; `memory_gradients` has a hand-written backward pass that saves less.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .memory_state import SMALLEST_FACTOR, NeuralMemoryState, without_tiny


# The largest slope of SiLU is 1.0998, so 1.21 bounds its square in the curvature bound of a hidden matrix.
SILU_SLOPE_SQUARED = 1.21

# Added to the Gram-matrix bound, which is small if a chunk has few or short keys.
SMALLEST_GRAM_BOUND = 0.05


class MemoryTokens(NamedTuple):
    """Tokens of a batch of turns, in the form that a memory processes.

    Attributes:
        queries, keys: (rows, heads, tokens, d_in).
        values: (rows, heads, tokens, head_dim).
        forget, decay, step: the gates alpha (of the weights), eta (of the momentum) and theta, (rows, heads, tokens).
        written: (rows, tokens) bool, true for the first tokens of each row; the others have zero keys and values and
            finite gates. None: all true.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    forget: Tensor
    decay: Tensor
    step: Tensor
    written: Tensor | None


class MemoryChunk(NamedTuple):
    """One chunk of each stream, in the notation of `write_chunk`.

    Attributes:
        keys, values: (streams, heads, chunk_size, d_in or head_dim).
        to_weights, to_momentum: twice c and e, (streams, heads, chunk_size, 1).
        keep, carry, decay: A, b and m, (streams, heads, 1, 1).
        length: n, the number of written tokens, at least 1, (streams, 1, 1, 1).
    """

    keys: Tensor
    values: Tensor
    to_weights: Tensor
    to_momentum: Tensor
    keep: Tensor
    carry: Tensor
    decay: Tensor
    length: Tensor

    def without(self, streams: Tensor) -> MemoryChunk:
        """The chunk without tokens in the given streams, (streams,) bool, so that their state does not change."""
        absent, ones = streams[:, None, None, None], ("keep", "decay", "length")
        filled = {name: tensor.masked_fill(absent, float(name in ones)) for name, tensor in self._asdict().items()}
        return MemoryChunk(**filled)


def cut_into_chunks(tokens: MemoryTokens, *, chunk_size: int, is_normalized: bool) -> list[MemoryChunk]:
    """Split the tokens into chunks.

    Args:
        tokens: all tensors in one dtype.
        chunk_size: size of the chunks.
        is_normalized: whether the step is ``theta (1 - eta) / n``, to be divided by a bound later, or theta.
    """
    keys, values, written = tokens.keys, tokens.values, tokens.written
    is_written = torch.ones_like(keys[:, :1, :, 0]) if written is None else written[:, None].to(keys.dtype)
    gates = is_written, tokens.forget, tokens.decay, tokens.step
    is_written, forget, decay, step = [cut_tokens(tensor, chunk_size) for tensor in gates]
    count = is_written.sum(-1, keepdim=True).clamp(min=1)
    if is_normalized:
        step = step * (1 - decay) / count
    # The gradient of the squared error is twice the error; the factor 2 is applied here, where it is cheap.
    step = 2 * step * is_written
    to_weights, to_momentum, of_chunk = _linear_recurrence(forget, decay, is_written)
    factors = [(step * factor)[..., None] for factor in (to_weights, to_momentum)]
    tensors = cut_tokens(keys, chunk_size), cut_tokens(values, chunk_size), *factors, *of_chunk, count[..., None]
    # Unbind instead of indexing: the gradient of an index would be as large as all chunks.
    return [MemoryChunk(*parts) for parts in zip(*[tensor.unbind(2) for tensor in tensors])]


def _linear_recurrence(forget: Tensor, decay: Tensor, written: Tensor):
    """How a token's gradient, and the state before the chunk, contribute to the state after the chunk.

    Token i acts on the pair (M, S) by the matrix [[1 - alpha_i, eta_i], [0, eta_i]] (the identity where it is not
    written). A doubling scan multiplies them from the end; products instead of sums of logarithms are exact at
    alpha = 1 and eta = 0, and so are their gradients.

    Args:
        forget, decay, written: (streams, heads or 1, chunks, chunk_size).

    Returns:
        The factors (to M, to S) of a gradient that enters at token i, each (streams, heads, chunks, chunk_size), and
        the three factors (A, b, m) of the whole chunk, each (streams, heads, chunks, 1, 1).
    """
    # The two diagonal entries, stacked.
    diagonal = 1 - torch.stack([forget, 1 - decay]) * written
    carry = decay * written
    chunk_size = carry.shape[-1]
    shift = 1
    while shift < chunk_size:
        # Entry i covers tokens i .. i + shift - 1; the last ones already reach the end of the chunk.
        first, later = diagonal[..., :-shift], diagonal[..., shift:]
        carried = torch.addcmul(later[0] * carry[..., :-shift], carry[..., shift:], first[1])
        carry = torch.cat([carried, carry[..., -shift:]], dim=-1)
        diagonal = torch.cat([later * first, diagonal[..., -shift:]], dim=-1)
        shift *= 2
    diagonal, carry = without_tiny(diagonal, SMALLEST_FACTOR), without_tiny(carry, SMALLEST_FACTOR)
    after_keep, after_decay = F.pad(diagonal[..., 1:], (0, 1), value=1.0)
    after_carry = F.pad(carry[..., 1:], (0, 1))
    (keep, decay), carry = diagonal[..., :1, None], carry[..., :1, None]
    return after_keep + after_carry, after_decay, (keep, carry, decay)


def cut_tokens(tensor: Tensor, chunk_size: int) -> Tensor:
    """(streams, heads, tokens, ...) -> (streams, heads, chunks, chunk_size, ...), the last chunk padded with zeros.

    Chunks are not longer than the number of tokens.
    """
    tokens = tensor.shape[2]
    chunk_size = min(chunk_size, max(tokens, 1))
    chunks = math.ceil(tokens / chunk_size)
    missing = chunks * chunk_size - tokens
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 3) + (0, missing))
    return tensor.unflatten(2, (chunks, chunk_size))


def write_chunk(
    state: NeuralMemoryState, chunk: MemoryChunk, step_bound: str | None, *, in_place: bool = False
) -> tuple[Tensor, NeuralMemoryState]:
    """Write a chunk.

    ``M_n = A M_0 + b S_0 - sum_i c_i g_i`` and ``S_n = m S_0 - sum_i e_i g_i`` with the gradients g at M_0.

    Args:
        state: M_0 and S_0.
        chunk: its tokens and factors.
        step_bound: which of the `curvature_bounds` divides c and e; None: no division.
        in_place: overwrite M_0 and S_0.

    Returns:
        The errors ``M_0(k) - v`` of the chunk's tokens, without a gradient, and M_n and S_n.
    """
    weights = state.weights
    inputs, outputs = hidden_pass(weights, chunk.keys)
    errors = inputs[-1] @ weights[-1] - chunk.values
    deltas, _ = half_gradients(weights, outputs, errors)
    bounds = None if step_bound is None else curvature_bounds(weights, inputs, chunk.length, step_bound)
    new_weights, new_momentum = [], []
    for layer, (weight, momentum) in enumerate(zip(weights, state.momentum)):
        to_weights, to_momentum = chunk.to_weights, chunk.to_momentum
        if bounds is not None:
            to_weights, to_momentum = to_weights / bounds[layer], to_momentum / bounds[layer]
        if in_place:
            weight, momentum = weight.mul_(chunk.keep).addcmul_(momentum, chunk.carry), momentum.mul_(chunk.decay)
        else:
            weight, momentum = (weight * chunk.keep).addcmul_(momentum, chunk.carry), momentum * chunk.decay
        keys = inputs[layer].mT
        new_weights.append(add_product(weight, keys, to_weights * deltas[layer], sign=-1))
        new_momentum.append(add_product(momentum, keys, to_momentum * deltas[layer], sign=-1))
    return errors.detach(), NeuralMemoryState(tuple(new_weights), tuple(new_momentum))


def read_chunk(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """``M(q)``, (streams, heads, tokens, head_dim)."""
    inputs, _ = hidden_pass(weights, queries)
    return inputs[-1] @ weights[-1]


def add_product(matrix: Tensor, left: Tensor, right: Tensor, *, sign: int = 1) -> Tensor:
    """``matrix + sign * left @ right``, in place if contiguous: the matrix must not be used elsewhere."""
    batch = matrix.flatten(0, 1)
    return batch.baddbmm_(left.flatten(0, 1), right.flatten(0, 1), alpha=sign).view_as(matrix)


def hidden_pass(weights: tuple[Tensor, ...], inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The input of each matrix, and the output of each but the last, before the SiLU."""
    all_inputs, outputs = [inputs], []
    for weight in weights[:-1]:
        outputs.append(all_inputs[-1] @ weight)
        all_inputs.append(F.silu(outputs[-1]))
    return all_inputs, outputs


def half_gradients(
    weights: tuple[Tensor, ...], outputs: list[Tensor], errors: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Half the gradient of each token's loss by the output of each matrix, and by the input of each but the first.

    Each is (streams, heads, tokens, width); weights and outputs as in `hidden_pass`, errors as in `write_chunk`.
    """
    deltas = [errors]
    raised: list[Tensor] = []
    for weight, output in zip(weights[:0:-1], outputs[::-1]):
        raised.insert(0, deltas[0] @ weight.mT)
        deltas.insert(0, silu_backward(raised[0], output))
    return deltas, raised


def silu_backward(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The gradient with respect to SiLU's input."""
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(gradient, inputs)  # one pass, but not differentiable
    sigmoid = torch.sigmoid(inputs)
    return gradient * sigmoid * (1 + inputs * (1 - sigmoid))


def curvature_bounds(
    weights: tuple[Tensor, ...], inputs: list[Tensor], count: Tensor, step_bound: str
) -> list[Tensor]:
    """A bound b of more than half the curvature of a chunk's mean loss in each matrix, each (streams, heads, 1, 1).

    The mean over n tokens is quadratic in the last matrix, with the curvature 2 A^T A / n for the inputs A (n, d_in);
    each SiLU and matrix between another matrix and the output multiplies that by at most 1.21 ||W||_F^2. With

    - "token": 1 + max_i ||a_i||^2, which is at least the largest eigenvalue of A^T A / n, and tight if all inputs of
      a chunk are equal;
    - "gram": 0.05 + ||A A^T / n||_F, likewise, but smaller if they differ. No gradient flows through it.

    Stability: apply a chunk of constant gates repeatedly, along an eigenvector of the curvature of the last
    matrix. With its eigenvalue l < 2 b the step is ``t l / b``, t <= 1, so below 2, and error and momentum are
    multiplied by ``[[1 - C l / b, B], [-E l / b, m]]``, m = eta^n, B = eta + ... + eta^n, ``E = t (1 - m) / n``,
    ``C = t (1 - B / n)``. Both eigenvalues of that lie within the unit circle, by Jury's criterion: with T its trace
    and D its determinant, 1 - T + D >= 0, 1 + T + D >= (1 + m) (2 - C l / b) > 0, and |D| < 1 as B / n lies between m
    and (1 + m) / 2. Forgetting makes them smaller. This does not cover keys and gates that change, nor the other
    matrices, whose loss is not quadratic; there the state is bounded because each turn ends with the projection of
    `memory_state.bound_state`.

    Inputs of positions without a token are zero.

    Args:
        weights, inputs: as in `hidden_pass`.
        count: n, (streams, 1, 1, 1).
        step_bound: "token" or "gram".
    """
    bounds: list[Tensor] = []
    behind: Tensor | None = None
    with torch.set_grad_enabled(torch.is_grad_enabled() and step_bound == "token"):
        for layer in range(len(weights) - 1, -1, -1):
            if step_bound == "token":
                smallest = 1.0
                own = torch.linalg.vector_norm(inputs[layer], dim=-1).amax(-1)[..., None, None].square()
            else:
                smallest, own = SMALLEST_GRAM_BOUND, _gram_norm(inputs[layer]) / count
            bounds.insert(0, smallest + (own if behind is None else own * behind))
            if layer:
                norm = torch.linalg.vector_norm(weights[layer], dim=(-2, -1), keepdim=True)
                slope = SILU_SLOPE_SQUARED * norm.square()
                behind = slope if behind is None else behind * slope
    return bounds


def _gram_norm(inputs: Tensor) -> Tensor:
    """``||A A^T||_F`` of inputs (..., n, d_in), (..., 1, 1); computed as the equal norm of ``A^T A`` if smaller."""
    is_long = inputs.shape[-2] > inputs.shape[-1]
    gram = inputs.mT @ inputs if is_long else inputs @ inputs.mT
    return torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True)
