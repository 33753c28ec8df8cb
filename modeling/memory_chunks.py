"""Tokens cut into chunks, and what the gates make of a chunk as a whole.

Within a chunk the recurrence of `neural_memory` is linear in the gradients, which are all taken at the chunk's first
weights. What the gates do to them can therefore be known for all chunks before the first gradient is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .memory_bounds import SMALLEST_FACTOR, without_tiny


class MemoryChunk(NamedTuple):
    """One chunk: its keys and values, (streams, heads, chunk_size, head_dim), twice the factors c and e of its
    gradients, (streams, heads, chunk_size, 1), and its factors A, b and m, (streams, heads, 1, 1)."""

    keys: Tensor
    values: Tensor
    to_weights: Tensor
    to_momentum: Tensor
    keep: Tensor
    carry: Tensor
    decay: Tensor


@dataclass
class MemoryChunks:
    """The written tokens of a call, packed to the front of each stream and cut into chunks.

    keys, values: (streams, heads, chunks, chunk_size, head_dim), zero where there is no token; to_weights,
    to_momentum: (streams, heads, chunks, chunk_size), the factors c and e of each token's gradient; keep, carry,
    decay: (streams, heads, chunks), the factors A, b and m of a whole chunk.
    """

    keys: Tensor
    values: Tensor
    to_weights: Tensor
    to_momentum: Tensor
    keep: Tensor
    carry: Tensor
    decay: Tensor
    order: Tensor | None
    tokens: int
    chunk_size: int

    @property
    def count(self) -> int:
        return self.keys.shape[2]

    def unbind(self) -> list[MemoryChunk]:
        """The chunks one by one; taken apart at once, since a backward pass puts them together again at once."""
        # The gradient of the squared error is twice the error, which is counted here, where it is cheap.
        factors = [2 * factor[..., None] for factor in (self.to_weights, self.to_momentum)]
        of_chunks = [factor[..., None, None] for factor in (self.keep, self.carry, self.decay)]
        parts = (tensor.unbind(2) for tensor in (self.keys, self.values, *factors, *of_chunks))
        return [MemoryChunk(*chunk) for chunk in zip(*parts)]

    @classmethod
    def pack(cls, keys, values, gates, mask, chunk_size, step_rule, *, dtype) -> MemoryChunks:
        """Pack the arguments of `write_memory`, in `dtype`."""
        tokens = keys.shape[2]
        # A stable sort brings the written tokens to the front, in order, with shapes that do not depend on the mask.
        order = None if mask is None else torch.argsort(~mask, dim=1, stable=True)
        ones = torch.ones((keys.shape[0], tokens), dtype=dtype, device=keys.device) if mask is None else mask.to(dtype)
        chunk_size = min(chunk_size, max(tokens, 1))

        def cut(tensor):
            return _cut_into_chunks(_reorder(tensor.to(dtype), order), chunk_size)

        written = cut(ones[:, None])

        def cut_written(tensor):
            # What a masked token holds must not matter, not even where it is infinite.
            absent = written == 0 if tensor.dim() == 3 else (written == 0)[..., None]
            return cut(tensor) if mask is None else cut(tensor).masked_fill(absent, 0)

        forget, momentum, step = (cut_written(gates[name]) for name in ("forget", "momentum", "step"))
        if step_rule == "normalized":
            step = step * (1 - momentum) / written.sum(-1, keepdim=True).clamp(min=1)
        step = step * written
        to_weights, to_momentum, chunk = _linear_recurrence(forget, momentum, written)
        keys, values = cut_written(keys), cut_written(values)
        return cls(keys, values, step * to_weights, step * to_momentum, *chunk, order, tokens, chunk_size)

    def pack_tokens(self, tensor: Tensor) -> Tensor:
        """(streams, heads, tokens, ...) -> (streams, heads, chunks, chunk_size, ...), as the keys were packed."""
        return _cut_into_chunks(_reorder(tensor.to(self.keys.dtype), self.order), self.chunk_size)

    def unpack_tokens(self, tensor: Tensor) -> Tensor:
        """What `pack_tokens` did, undone."""
        packed = tensor.flatten(2, 3)[:, :, : self.tokens]
        return packed if self.order is None else _reorder(packed, torch.argsort(self.order, dim=1))


def _linear_recurrence(forget: Tensor, momentum: Tensor, written: Tensor):
    """What becomes of a token's gradient, and of the state before the chunk, by the end of the chunk.

    Token i acts on the pair (M, S) by the matrix [[1 - alpha_i, eta_i], [0, eta_i]] (the identity where it is not
    written). A doubling scan multiplies them from the end; products instead of sums of logarithms are exact at
    alpha = 1 and eta = 0, and so are their gradients.

    Args:
        forget, momentum, written: (streams, heads or 1, chunks, chunk_size).

    Returns:
        The factors (to M, to S) of a gradient that enters at token i, each (streams, heads, chunks, chunk_size), and
        the three factors (A, b, m) of the whole chunk, each (streams, heads, chunks).
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
    return after_keep + after_carry, after_decay, (diagonal[0, ..., 0], carry[..., 0], diagonal[1, ..., 0])


def _reorder(tensor: Tensor, order: Tensor | None) -> Tensor:
    """`tensor` (streams, heads, tokens, ...) with the tokens of each stream in `order` (streams, tokens)."""
    if order is None:
        return tensor
    index = order[:, None].reshape(order.shape[0], 1, order.shape[1], *[1] * (tensor.dim() - 3))
    return torch.take_along_dim(tensor, index, dim=2)


def _cut_into_chunks(tensor: Tensor, chunk_size: int) -> Tensor:
    """(streams, heads, tokens, ...) -> (streams, heads, chunks, chunk_size, ...), the last chunk filled with zeros."""
    tokens = tensor.shape[2]
    chunks = math.ceil(tokens / chunk_size)
    missing = chunks * chunk_size - tokens
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.dim() - 3) + (0, missing))
    return tensor.unflatten(2, (chunks, chunk_size))
