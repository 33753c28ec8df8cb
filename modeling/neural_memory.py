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

import torch
from torch import Tensor

from .memory_backward import read_and_write_chunk_by_hand
from .memory_bounds import SMALLEST_ENTRY, limit_norm, without_tiny
from .memory_chunks import MemoryChunks
from .memory_step import hidden_pass, read_and_write_chunk


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

    def where(self, condition: Tensor, other: NeuralMemoryState) -> NeuralMemoryState:
        """The streams of this state where `condition` (streams,) holds, and those of `other` elsewhere."""
        condition = condition[:, None, None, None]
        mine, theirs = (*self.weights, *self.momentum), (*other.weights, *other.momentum)
        chosen = [torch.where(condition, a, b) for a, b in zip(mine, theirs)]
        return NeuralMemoryState(tuple(chosen[: len(self.weights)]), tuple(chosen[len(self.weights) :]))

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
    inputs, _ = hidden_pass(weights, queries.to(weights[0].dtype))
    return inputs[-1] @ weights[-1]


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
    chunks = MemoryChunks.pack(keys, values, gates, mask, chunk_size, step_rule, dtype=_state_dtype(state, keys))
    return _write_chunks(state, chunks, step_rule)


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
    write = {"mask": mask, "chunk_size": chunk_size, "step_rule": step_rule}
    if read == "history":
        return read_memory(state.weights, queries), write_memory(state, keys, values, **gates, **write)

    _check_inputs(state, keys, values, gates, **write)
    if queries.shape != keys.shape:
        raise ValueError(f"queries must have the shape of the keys, {tuple(keys.shape)}, got {tuple(queries.shape)}.")
    chunks = MemoryChunks.pack(keys, values, gates, mask, chunk_size, step_rule, dtype=_state_dtype(state, keys))
    packed_queries = chunks.pack_tokens(queries)
    answers = []
    state = _write_chunks(state, chunks, step_rule, queries=packed_queries, answers=answers)
    if not answers:
        return torch.zeros_like(queries, dtype=chunks.keys.dtype), state
    return chunks.unpack_tokens(torch.stack(answers, dim=2)), state


def _write_chunks(
    state: NeuralMemoryState,
    chunks: MemoryChunks,
    step_rule: str,
    *,
    queries: Tensor | None = None,
    answers: list[Tensor] | None = None,
) -> NeuralMemoryState:
    """The state after all chunks; with `queries`, what each chunk's queries read before it is written."""
    state = state.map(lambda tensor: tensor.to(chunks.keys.dtype))
    queries = [None] * chunks.count if queries is None else queries.unbind(2)
    by_hand = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    for index, (chunk, chunk_queries) in enumerate(zip(chunks.unbind(), queries)):
        arguments = (state.weights, state.momentum, chunk, chunk_queries, step_rule)
        if by_hand:
            read, *after = read_and_write_chunk_by_hand(*arguments)
        else:
            # The first chunk's state may be the caller's; what later ones replace is known to nobody else.
            in_place = index > 0 and not torch.is_grad_enabled()
            read, *after = read_and_write_chunk(*arguments, in_place=in_place)
        state = NeuralMemoryState(*after)
        if chunk_queries is not None:
            answers.append(read)
    if step_rule == "normalized":
        state = state.map(limit_norm)
    return state.map(lambda tensor: without_tiny(tensor, SMALLEST_ENTRY))


def _state_dtype(state: NeuralMemoryState, keys: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (keys.dtype, state.weights[0].dtype) else torch.float32


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
