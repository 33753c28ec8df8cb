"""Tokens cut into chunks, and what the gates make of a chunk as a whole.

Within a chunk the recurrence of `neural_memory` is linear in the gradients, which are all taken at the chunk's first
weights. What the gates do to them can therefore be known for all chunks before the first gradient is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .memory_bounds import SMALLEST_FACTOR, without_tiny


class MemoryChunk(NamedTuple):
    """One chunk of each stream, in the letters of `memory_step.write_chunk`.

    Attributes:
        keys, values: (streams, heads, chunk_size, head_dim).
        to_weights, to_momentum: twice c and e, (streams, heads, chunk_size, 1).
        keep, carry, decay: A, b and m, (streams, heads, 1, 1).
    """

    keys: Tensor
    values: Tensor
    to_weights: Tensor
    to_momentum: Tensor
    keep: Tensor
    carry: Tensor
    decay: Tensor

    def without(self, streams: Tensor) -> MemoryChunk:
        """The chunk with no token in those streams, (streams,) bool: it leaves their state as it is."""
        absent, ones = streams[:, None, None, None], ("keep", "decay")
        filled = {name: tensor.masked_fill(absent, float(name in ones)) for name, tensor in self._asdict().items()}
        return MemoryChunk(**filled)


def cut_into_chunks(
    keys: Tensor,
    values: Tensor,
    *,
    forget: Tensor,
    momentum: Tensor,
    step: Tensor,
    written: Tensor | None,
    chunk_size: int,
    step_rule: str,
) -> list[MemoryChunk]:
    """The tokens of a call, chunk by chunk; arguments as those of `neural_memory.write_memory`, in one dtype.

    Args:
        written: (streams, tokens) bool, the first tokens of each stream; keys and values of the others are zero, and
            their gates finite. None: all are written.
    """
    is_written = torch.ones_like(keys[:, :1, :, 0]) if written is None else written[:, None].to(keys.dtype)
    gates = is_written, forget, momentum, step
    is_written, forget, momentum, step = (cut_tokens(tensor, chunk_size) for tensor in gates)
    if step_rule == "normalized":
        step = step * (1 - momentum) / is_written.sum(-1, keepdim=True).clamp(min=1)
    # The gradient of the squared error is twice the error, which is counted here, where it is cheap.
    step = 2 * step * is_written
    to_weights, to_momentum, of_chunk = _linear_recurrence(forget, momentum, is_written)
    factors = [(step * factor)[..., None] for factor in (to_weights, to_momentum)]
    tensors = cut_tokens(keys, chunk_size), cut_tokens(values, chunk_size), *factors, *of_chunk
    # Not an index for each chunk, whose gradient would be as large as all chunks.
    return [MemoryChunk(*parts) for parts in zip(*(tensor.unbind(2) for tensor in tensors))]


def _linear_recurrence(forget: Tensor, momentum: Tensor, written: Tensor):
    """What becomes of a token's gradient, and of the state before the chunk, by the end of the chunk.

    Token i acts on the pair (M, S) by the matrix [[1 - alpha_i, eta_i], [0, eta_i]] (the identity where it is not
    written). A doubling scan multiplies them from the end; products instead of sums of logarithms are exact at
    alpha = 1 and eta = 0, and so are their gradients.

    Args:
        forget, momentum, written: (streams, heads or 1, chunks, chunk_size).

    Returns:
        The factors (to M, to S) of a gradient that enters at token i, each (streams, heads, chunks, chunk_size), and
        the three factors (A, b, m) of the whole chunk, each (streams, heads, chunks, 1, 1).
    """
    # Both factors that stand on the diagonal, one beside the other.
    diagonal = 1 - torch.stack([forget, 1 - momentum]) * written
    carry = momentum * written
    chunk_size = carry.shape[-1]
    shift = 1
    while shift < chunk_size:
        # Entry i covers tokens i .. i + shift - 1; beyond the end of the chunk stands the identity.
        later, later_carry = F.pad(diagonal[..., shift:], (0, shift), value=1.0), F.pad(carry[..., shift:], (0, shift))
        carry = torch.addcmul(later[0] * carry, later_carry, diagonal[1])
        diagonal = later * diagonal
        shift *= 2
    diagonal, carry = (without_tiny(factor, SMALLEST_FACTOR) for factor in (diagonal, carry))
    after_keep, after_decay = F.pad(diagonal[..., 1:], (0, 1), value=1.0)
    after_carry = F.pad(carry[..., 1:], (0, 1))
    (keep, decay), carry = diagonal[..., :1, None], carry[..., :1, None]
    return after_keep + after_carry, after_decay, (keep, carry, decay)


def cut_tokens(tensor: Tensor, chunk_size: int) -> Tensor:
    """(streams, heads, tokens, ...) -> (streams, heads, chunks, chunk_size, ...), the last chunk filled with zeros.

    No chunk is longer than the tokens are.
    """
    tokens = tensor.shape[2]
    chunk_size = min(chunk_size, max(tokens, 1))
    chunks = math.ceil(tokens / chunk_size)
    missing = chunks * chunk_size - tokens
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 3) + (0, missing))
    return tensor.unflatten(2, (chunks, chunk_size))
