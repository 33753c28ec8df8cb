"""The mathematics of the Titans neural memory (Behrouz, Zhong, Mirrokni 2025, arXiv 2501.00663, section 3).

The memory is an MLP without biases, ``M(x) = SiLU(... SiLU(x W_1) ...) W_L``, one per stream and head. It is written
by gradient descent with momentum and forgetting on the loss ``l(M; k, v) = ||M(k) - v||^2``. For written token i

    S_i = eta_i S_{i-1} - theta_i grad l(M_chunk; k_i, v_i)
    M_i = (1 - alpha_i) M_{i-1} + S_i                                       (arXiv 2501.00663, equations 9, 10 and 13)

with ``M_chunk`` the weights at the start of the token's chunk; ``chunk_size=1`` is the paper's recurrence exactly.

Nothing here walks over tokens. The gradients of a chunk are outer products taken at the same weights, and the
recurrence is linear in them, so the state after a chunk is a weighted sum that one matrix product gives
(`memory_step`). Training goes through the update, once differentiable (`memory_backward`); all functions run under
`inference_mode`, `torch.compile` and checkpointing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from .hand_gradients import goes_by_hand
from .memory_backward import read_chunk_by_hand, write_chunk_by_hand
from .memory_bounds import bound_state
from .memory_chunks import MemoryChunk, cut_into_chunks, cut_tokens
from .memory_step import read_chunk, write_chunk


STEP_RULES = ("normalized", "paper")
READ_ORDERS = ("history", "chunk")


@dataclass
class NeuralMemoryState:
    """Weights and momentum of one memory layer's streams.

    Attributes:
        weights: one tensor per matrix of the MLP, each (streams, heads, d_in, d_out); float32, or float64 for float64
            inputs.
        momentum: the same shapes and dtype: the running sum S of the surprise.
    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]

    def map(self, function) -> NeuralMemoryState:
        """The state with `function` applied to each of its tensors."""
        return NeuralMemoryState(tuple(map(function, self.weights)), tuple(map(function, self.momentum)))

    def __getitem__(self, streams) -> NeuralMemoryState:
        """The state of some streams: a slice or a tensor of indices."""
        return self.map(lambda tensor: tensor[streams])

    @staticmethod
    def concatenate(states: Sequence[NeuralMemoryState]) -> NeuralMemoryState:
        """The streams of all states, one after the other."""
        return NeuralMemoryState(
            tuple(map(torch.cat, zip(*(state.weights for state in states)))),
            tuple(map(torch.cat, zip(*(state.momentum for state in states)))),
        )


def read_memory(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """What the memory answers to `queries`: ``M(q)``.

    Args:
        weights: matrices of the memory, each (streams, heads, d_in, d_out).
        queries: (streams, heads, tokens, head_dim).

    Returns:
        (streams, heads, tokens, head_dim), in the dtype of the weights.
    """
    queries = queries.to(weights[0].dtype)
    # One product keeps nothing but its factors anyway.
    return (
        read_chunk_by_hand(weights, queries) if len(weights) > 1 and goes_by_hand() else read_chunk(weights, queries)
    )


def write_memory(
    state: NeuralMemoryState,
    keys: Tensor,
    values: Tensor,
    *,
    forget: Tensor,
    momentum: Tensor,
    step: Tensor,
    mask: Tensor | None = None,
    chunk_size: int,
    step_rule: str = "paper",
) -> NeuralMemoryState:
    """Write tokens into the memory by gradient steps, in closed form for each chunk.

    Args:
        state: the state before; it is not modified.
        keys, values: (streams, heads, tokens, head_dim).
        forget, momentum, step: the gates alpha, eta and theta, (streams, heads, tokens), in [0, 1].
        mask: (streams, tokens), True = write. A masked token leaves weights and momentum untouched, as if it were
            absent: chunk boundaries count written tokens. None writes every token.
        chunk_size: tokens whose gradients are taken at the same weights, at least 1. The end of the call closes the
            last chunk.
        step_rule: "paper" takes theta as it is. "normalized" uses ``theta_i (1 - eta_i) / (n b)`` with n the chunk's
            written tokens and b a bound of the local curvature (`memory_step.curvature_bounds`), so that correlated
            keys do not overshoot; after it no matrix is larger than `memory_bounds.norm_bound`. "paper" may diverge:
            it is the caller who looks (`memory_bounds.is_within_bounds`).

    Returns:
        The state after the tokens: float32, or float64 where an input is float64.

    Raises:
        ValueError: for an unknown `step_rule`, a `chunk_size` below 1, or shapes that do not belong together.
    """
    gates = {"forget": forget, "momentum": momentum, "step": step}
    _check_inputs(state, keys, values, gates, mask, chunk_size, step_rule)
    keys, values, gates, written, _ = _pack(state, keys, values, gates, mask)
    chunks = cut_into_chunks(keys, values, **gates, written=written, chunk_size=chunk_size, step_rule=step_rule)
    return write_chunks(state, chunks, step_rule).state


def read_and_write_memory(
    state: NeuralMemoryState,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    forget: Tensor,
    momentum: Tensor,
    step: Tensor,
    mask: Tensor | None = None,
    chunk_size: int,
    step_rule: str = "paper",
    read: str = "history",
) -> tuple[Tensor, NeuralMemoryState]:
    """Read at every token and write the tokens; arguments as `write_memory`.

    Args:
        queries: (streams, heads, tokens, head_dim).
        read: "history": every token reads the state before the call. "chunk": a token of chunk j reads the state after
            chunk j - 1, Titans' own order; what a masked token reads then is unspecified.

    Returns:
        values (streams, heads, tokens, head_dim) and the state after the tokens.

    Raises:
        ValueError: as `write_memory`, and for an unknown `read`.
    """
    if read not in READ_ORDERS:
        raise ValueError(f"read must be one of {READ_ORDERS}, got {read!r}.")
    gates = {"forget": forget, "momentum": momentum, "step": step}
    if read == "history":
        write = {"mask": mask, "chunk_size": chunk_size, "step_rule": step_rule}
        return read_memory(state.weights, queries), write_memory(state, keys, values, **gates, **write)
    _check_inputs(state, keys, values, gates, mask, chunk_size, step_rule)
    if queries.shape != keys.shape:
        raise ValueError(f"queries must have the shape of the keys, {tuple(keys.shape)}, got {tuple(queries.shape)}.")
    keys, values, gates, written, order = _pack(state, keys, values, gates, mask)
    queries = _reorder(queries.to(keys.dtype), order)
    chunks = cut_into_chunks(keys, values, **gates, written=written, chunk_size=chunk_size, step_rule=step_rule)
    answers, _, state = write_chunks(state, chunks, step_rule, cut_tokens(queries, chunk_size).unbind(2))
    if answers is None:
        return torch.zeros_like(queries), state
    answers = answers[:, :, : queries.shape[2]]
    return answers if order is None else _reorder(answers, torch.argsort(order, dim=1)), state


class WrittenChunks(NamedTuple):
    """What `write_chunks` gives.

    Attributes:
        answers: (streams, heads, all queries, head_dim), one chunk's after the other's; None without any.
        errors: (streams, heads, chunk_size, head_dim), ``M(k) - v`` of the first chunk before it was written, without
            a gradient; None without a chunk.
        state: after the chunks.
    """

    answers: Tensor | None
    errors: Tensor | None
    state: NeuralMemoryState


def write_chunks(
    state: NeuralMemoryState,
    chunks: Sequence[MemoryChunk],
    step_rule: str,
    queries: Sequence[Tensor] = (),
) -> WrittenChunks:
    """Write chunks one after the other.

    Args:
        state: the state before; it is not modified.
        chunks: of `memory_chunks.cut_into_chunks`.
        step_rule: as in `write_memory`.
        queries: (streams, heads, any number, head_dim) for none or the first chunks, each read before its chunk is
            written: a single one reads the state before the call.
    """
    if not chunks:
        return WrittenChunks(None, None, state)
    # Without gradients, one copy of the caller's state is overwritten by every chunk.
    in_place = not torch.is_grad_enabled()
    state = state.map(lambda tensor: tensor.to(chunks[0].keys.dtype))
    if in_place:
        state = state.map(lambda tensor: tensor.clone(memory_format=torch.contiguous_format))
    answers, first_errors = [], None
    for chunk, chunk_queries in zip_longest(chunks, queries):
        if chunk_queries is not None:
            answers.append(read_memory(state.weights, chunk_queries))
        if goes_by_hand():
            errors, *after = write_chunk_by_hand(state.weights, state.momentum, chunk, step_rule)
        else:
            errors, *after = write_chunk(state.weights, state.momentum, chunk, step_rule, in_place=in_place)
        first_errors = errors if first_errors is None else first_errors
        state = NeuralMemoryState(*after)
    matrices = bound_state((*state.weights, *state.momentum), clip=step_rule == "normalized", in_place=in_place)
    state = NeuralMemoryState(matrices[: len(state.weights)], matrices[len(state.weights) :])
    return WrittenChunks(torch.cat(answers, dim=2) if answers else None, first_errors, state)


def _pack(state, keys, values, gates, mask):
    """Keys, values and gates in the state's dtype, with the written tokens at the front, in order, zero behind them.

    Also which are written then, (streams, tokens) bool, and the order; both None without a mask. The shapes do not
    depend on the mask.
    """
    dtype = torch.float64 if torch.float64 in (keys.dtype, state.weights[0].dtype) else torch.float32
    keys, values, *factors = (tensor.to(dtype) for tensor in (keys, values, *gates.values()))
    if mask is None:
        return keys, values, dict(zip(gates, factors)), None, None
    order = torch.argsort(~mask, dim=1, stable=True)
    written = mask.gather(1, order)

    def pack(tensor):
        # What a masked token holds must not matter, not even where it is infinite.
        absent = ~written[:, None].reshape(len(mask), 1, -1, *[1] * (tensor.dim() - 3))
        return _reorder(tensor, order).masked_fill(absent, 0)

    keys, values, *factors = map(pack, (keys, values, *factors))
    return keys, values, dict(zip(gates, factors)), written, order


def _reorder(tensor: Tensor, order: Tensor | None) -> Tensor:
    """`tensor` (streams, heads, tokens, ...) with the tokens of each stream in `order` (streams, tokens)."""
    if order is None:
        return tensor
    index = order[:, None].reshape(order.shape[0], 1, order.shape[1], *[1] * (tensor.dim() - 3))
    return torch.take_along_dim(tensor, index, dim=2)


def _check_inputs(state, keys, values, gates, mask, chunk_size, step_rule) -> None:
    if step_rule not in STEP_RULES:
        raise ValueError(f"step_rule must be one of {STEP_RULES}, got {step_rule!r}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
    expected = (*state.weights[0].shape[:2], keys.shape[2] if keys.dim() == 4 else -1, state.weights[0].shape[2])
    if tuple(keys.shape) != expected or tuple(values.shape) != (*expected[:3], state.weights[-1].shape[3]):
        raise ValueError(
            "keys and values must be (streams, heads, tokens, head_dim) and fit the weights of the state, "
            f"{[tuple(weight.shape) for weight in state.weights]}, got keys {tuple(keys.shape)} and values "
            f"{tuple(values.shape)}."
        )
    for name, gate in gates.items():
        if tuple(gate.shape) != expected[:3]:
            raise ValueError(f"{name} must be (streams, heads, tokens) = {expected[:3]}, got {tuple(gate.shape)}.")
    if mask is not None and (tuple(mask.shape) != (expected[0], expected[2]) or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be a bool tensor (streams, tokens) = {(expected[0], expected[2])}, got {mask.dtype} "
            f"{tuple(mask.shape)}."
        )
