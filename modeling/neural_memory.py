"""The Titans neural memory (Behrouz, Zhong, Mirrokni 2025, arXiv 2501.00663, section 3): reading and writing turns.

The memory is an MLP without biases, ``M(x) = SiLU(... SiLU(x W_1) ...) W_L``, one per stream and head. It is written
by gradient descent with momentum and forgetting on the loss ``l(M; k, v) = ||M(k) - v||^2``. For written token i

    S_i = eta_i S_{i-1} - theta_i grad l(M_chunk; k_i, v_i)
    M_i = (1 - alpha_i) M_{i-1} + S_i                                       (arXiv 2501.00663, equations 9, 10 and 13)

with ``M_chunk`` the weights at the start of the token's chunk; ``chunk_size=1`` is exactly the paper's recurrence.

There is no loop over tokens (see `memory_chunks`). Training differentiates through the update, once
(`memory_gradients`); all functions support `inference_mode`, `torch.compile` and checkpointing.

Memory layers call `process_turns` with a batch of turns; each turn reads what earlier turns of its stream wrote, and
is written. `read_memory`, `write_memory` and `read_and_write_memory` do the same for one call of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from .memory_chunks import MemoryChunk, MemoryTokens, cut_into_chunks, cut_tokens, read_chunk, write_chunk
from .memory_gradients import bound_state_by_hand, read_chunk_by_hand, uses_manual_gradients, write_chunk_by_hand
from .memory_state import NeuralMemoryState, bound_state


STEP_RULES = ("normalized", "paper")
STEP_BOUNDS = ("token", "gram")
READ_ORDERS = ("history", "chunk")


# --- A batch of turns


class ProcessedTurns(NamedTuple):
    """The result of `process_turns`.

    Attributes:
        retrieved: (rows, heads, tokens, head_dim), the values read by the tokens.
        errors: (rows, heads, tokens), ``||M(k) - v||^2`` with M before the turn, without a gradient.
        is_rejected: (rows,) bool, the turns that would have left a memory that is not finite or exceeds its bounds,
            and were not written; None if that cannot happen: for "normalized", `write=False` or no tokens.
        state: state of the streams after their turns.
    """

    retrieved: Tensor
    errors: Tensor
    is_rejected: Tensor | None
    state: NeuralMemoryState


def process_turns(
    state: NeuralMemoryState,
    tokens: MemoryTokens,
    batch_sizes: Sequence[int],
    *,
    read: str,
    chunk_size: int,
    step_rule: str,
    step_bound: str = "token",
    write: bool = True,
) -> ProcessedTurns:
    """Read and write turns, those of a stream one after the other; everything else is computed for all rows at once.

    Args:
        state: state of the streams; it is not modified.
        tokens: tokens of the rows: the first turns of all streams, then the second turns of those that have one, ...
        batch_sizes: the number of streams with a first turn, a second turn, ...; non-increasing, as in torch's packed
            sequences. They sum to rows.
        read, chunk_size, step_rule, step_bound: as in `TitansMemoryConfig`.
        write: False reads only.
    """
    bound = step_bound if step_rule == "normalized" else None
    retrieved, errors, rejected, finished = [], [], [], []
    turns = _split_turns(tokens, batch_sizes, read=read, chunk_size=chunk_size, bound=bound, write=write)
    for batch_size, turn in zip(batch_sizes, turns):
        if batch_size < len(state.weights[0]):
            finished.append(state[batch_size:])
            state = state[:batch_size]
        written, is_good = _write_if_finite(state, turn, bound)
        retrieved.append(written.retrieved)
        errors.append(_square_errors(state, turn, written.errors))
        if is_good is not None:
            rejected.append(~is_good)
        if write:
            state = written.state
    if finished:
        # The streams with the fewest turns are last in the batch, and finish first.
        state = NeuralMemoryState.concatenate([state, *reversed(finished)])
    return ProcessedTurns(_join(retrieved), _join(errors), _join(rejected) if rejected and write else None, state)


class _Turn(NamedTuple):
    """One turn of each stream that has one.

    Attributes:
        keys, values: (streams, heads, tokens, head_dim), without a gradient.
        queries: the queries read before each chunk, (streams, heads, any number, head_dim) each.
        chunks: to be written, one after the other; empty if the turn is only read.
    """

    keys: Tensor
    values: Tensor
    queries: Sequence[Tensor]
    chunks: Sequence[MemoryChunk]


def _split_turns(
    tokens: MemoryTokens,
    batch_sizes: Sequence[int],
    *,
    read: str,
    chunk_size: int,
    bound: str | None,
    write: bool = True,
) -> list[_Turn]:
    """The tokens of each turn, and its chunks if it is written or read chunk by chunk."""
    queries: Sequence[Tensor] = [tokens.queries]
    chunks: list[MemoryChunk] = []
    if tokens.keys.shape[2] and (write or read == "chunk"):
        chunks = cut_into_chunks(tokens, chunk_size=chunk_size, is_normalized=bound is not None)
        if read == "chunk":
            queries = cut_tokens(tokens.queries, chunk_size).unbind(2)
    keys, values = tokens.keys.detach(), tokens.values.detach()
    if len(batch_sizes) == 1:  # avoid the copy in the gradient of a split
        return [_Turn(keys, values, queries, chunks)]
    chunks_of_turns: list[list[MemoryChunk]] = [[] for _ in batch_sizes]
    for chunk in chunks:
        for of_turn, parts in zip(chunks_of_turns, zip(*[tensor.split(batch_sizes) for tensor in chunk])):
            of_turn.append(MemoryChunk(*parts))
    queries_of_turns = zip(*[tensor.split(batch_sizes) for tensor in queries])
    turns = zip(keys.split(batch_sizes), values.split(batch_sizes), queries_of_turns, chunks_of_turns)
    return [_Turn(*turn) for turn in turns]


class _WrittenTurn(NamedTuple):
    """The result of `_write_turn`.

    Attributes:
        retrieved: (streams, heads, tokens, head_dim).
        errors: (streams, heads, chunk_size, head_dim), ``M(k) - v`` of the first chunk before it is written, without a
            gradient; None without a chunk.
        state: after the turn.
    """

    retrieved: Tensor
    errors: Tensor | None
    state: NeuralMemoryState


def _write_if_finite(state: NeuralMemoryState, turn: _Turn, bound: str | None) -> tuple[_WrittenTurn, Tensor | None]:
    """Read and write a turn; and (streams,) bool, whether the new memory is within bounds: if not, it is discarded."""
    written = _write_turn(state, turn, bound)
    if bound is not None or not turn.chunks:
        return written, None
    is_good = written.state.is_within_bounds()
    if torch.compiler.is_compiling() or not is_good.all():
        # Recomputed without those turns, since gradients cannot flow through values that are not finite.
        good = turn._replace(chunks=[chunk.without(~is_good) for chunk in turn.chunks])
        written = _write_turn(state, good, bound)._replace(errors=written.errors)
    return written, is_good


def _write_turn(state: NeuralMemoryState, turn: _Turn, bound: str | None) -> _WrittenTurn:
    """Read and write a turn; the queries at an index are read before the chunk at that index is written."""
    if not turn.chunks:
        return _WrittenTurn(read_memory(state.weights, *turn.queries), None, state)
    state = state.map(lambda tensor: tensor.to(turn.keys.dtype))
    by_hand, in_place, first_errors = uses_manual_gradients(), False, None
    parts: list[Tensor] = []
    for chunk, queries in zip_longest(turn.chunks, turn.queries):
        if queries is not None:
            parts.append(read_memory(state.weights, queries))
        if by_hand:
            errors, state = write_chunk_by_hand(state, chunk, bound)
        else:
            errors, state = write_chunk(state, chunk, bound, in_place=in_place)
            # The state after the first chunk is not used elsewhere, so it may be overwritten.
            in_place = not torch.is_grad_enabled()
        first_errors = errors if first_errors is None else first_errors
    clip = bound is not None
    state = bound_state_by_hand(state) if clip and by_hand else bound_state(state, clip=clip, in_place=in_place)
    retrieved = _join(parts, dim=2)
    if len(turn.queries) > 1:  # the last chunk is padded
        retrieved = retrieved[:, :, : turn.keys.shape[2]]
    return _WrittenTurn(retrieved, first_errors, state)


@torch.no_grad()
def _square_errors(state: NeuralMemoryState, turn: _Turn, first: Tensor | None) -> Tensor:
    """(streams, heads, tokens), ``||M(k) - v||^2``; `first` are the errors of the first tokens, if known."""
    known = 0 if first is None else first.shape[2]
    errors = [] if first is None else [first]
    if known < turn.keys.shape[2] or first is None:
        errors.append(read_memory(state.weights, turn.keys[:, :, known:]) - turn.values[:, :, known:])
    return _join([torch.linalg.vector_norm(part, dim=-1).square() for part in errors], dim=2)


def _join(tensors: list[Tensor], dim: int = 0) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


# --- One call of tokens


def read_memory(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """Retrieve ``M(q)`` for `queries`.

    Args:
        weights: matrices of the memory, each (streams, heads, d_in, d_out).
        queries: (streams, heads, tokens, d_in) of the first matrix.

    Returns:
        (streams, heads, tokens, d_out) of the last matrix, in the dtype of the weights.
    """
    queries = queries.to(weights[0].dtype)
    # With one matrix, autograd saves nothing but the factors either.
    return (
        read_chunk_by_hand(weights, queries)
        if len(weights) > 1 and uses_manual_gradients()
        else read_chunk(weights, queries)
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
    step_bound: str = "token",
) -> NeuralMemoryState:
    """Write tokens into the memory by gradient steps, in closed form for each chunk.

    Args:
        state: the state before; it is not modified.
        keys, values: (streams, heads, tokens, d_in or d_out), the width of the first or the last matrix.
        forget, momentum, step: the gates alpha, eta (how much of the momentum stays) and theta, (streams, heads,
            tokens), in [0, 1].
        mask: (streams, tokens), True = write. A masked token changes neither weights nor momentum and does not count
            towards chunk boundaries, as if it were absent. None writes every token.
        chunk_size: number of tokens whose gradients are taken at the same weights, at least 1. The last chunk ends
            with the call.
        step_rule: "paper" uses theta as it is. "normalized" uses ``theta_i (1 - eta_i) / (n b)`` with n the chunk's
            number of written tokens and b a bound of the local curvature (`memory_chunks.curvature_bounds`), so that
            correlated keys do not overshoot; afterwards no matrix exceeds `memory_state.norm_bound`. "paper" may
            diverge: the caller must check (`NeuralMemoryState.is_within_bounds`).
        step_bound: which b, "token" or "gram"; no effect on "paper".

    Returns:
        The state after the tokens: float32, or float64 if an input is float64.

    Raises:
        ValueError: for an unknown `step_rule` or `step_bound`, a `chunk_size` below 1, or shapes that do not fit
            together.
    """
    gates = {"forget": forget, "momentum": momentum, "step": step}
    # No queries, so nothing is read.
    rules = {"chunk_size": chunk_size, "step_rule": step_rule, "step_bound": step_bound, "read": "history"}
    return _process_tokens(state, keys[..., :0, :], keys, values, gates, mask, **rules)[1]


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
    step_bound: str = "token",
    read: str = "history",
) -> tuple[Tensor, NeuralMemoryState]:
    """Read at every token and write the tokens; arguments as `write_memory`.

    Args:
        queries: (streams, heads, tokens, d_in).
        read: "history": every token reads the state before the call. "chunk": a token of chunk j reads the state after
            chunk j - 1, Titans' own order; the values read by masked tokens are then unspecified.

    Returns:
        values (streams, heads, tokens, d_out) and the state after the tokens.

    Raises:
        ValueError: as `write_memory`, and for an unknown `read`.
    """
    if read not in READ_ORDERS:
        raise ValueError(f"read must be one of {READ_ORDERS}, got {read!r}.")
    if read == "chunk" and queries.shape != keys.shape:
        raise ValueError(f"queries must have the shape of the keys, {tuple(keys.shape)}, got {tuple(queries.shape)}.")
    gates = {"forget": forget, "momentum": momentum, "step": step}
    rules = {"chunk_size": chunk_size, "step_rule": step_rule, "step_bound": step_bound, "read": read}
    return _process_tokens(state, queries, keys, values, gates, mask, **rules)


def _process_tokens(state, queries, keys, values, gates, mask, *, read, chunk_size, step_rule, step_bound):
    """One turn of each stream with masked tokens; it is written even if the new state is out of bounds."""
    for name, value, allowed in (("step_rule", step_rule, STEP_RULES), ("step_bound", step_bound, STEP_BOUNDS)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
    _check_inputs(state, keys, values, gates, mask, chunk_size)
    bound = step_bound if step_rule == "normalized" else None
    dtype = torch.float64 if torch.float64 in (keys.dtype, state.weights[0].dtype) else torch.float32
    tensors = [tensor.to(dtype) for tensor in (queries, keys, values, *gates.values())]
    order = None
    if mask is not None:
        # Move the written tokens to the front, in their order, so that shapes do not depend on the mask.
        order = torch.argsort(~mask, dim=1, stable=True)
        mask = mask.gather(1, order)
        # The content of a masked token must not matter, even if it is infinite.
        written = [_reorder(t, order).masked_fill(~_like(mask, t), 0) for t in tensors[1:]]
        tensors = [_reorder(queries, order) if read == "chunk" else queries, *written]
    tokens = MemoryTokens(*tensors, mask)
    (turn,) = _split_turns(tokens, [len(keys)], read=read, chunk_size=chunk_size, bound=bound)
    retrieved, _, state = _write_turn(state, turn, bound)
    if order is not None and read == "chunk":
        retrieved = _reorder(retrieved, torch.argsort(order, dim=1))
    return retrieved, state


def _reorder(tensor: Tensor, order: Tensor) -> Tensor:
    """`tensor` (streams, heads, tokens, ...) with the tokens of each stream in `order` (streams, tokens)."""
    return torch.take_along_dim(tensor, _like(order, tensor), dim=2)


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """Reshape (streams, tokens) for broadcasting against `other`, (streams, heads, tokens, ...)."""
    return tensor[:, None].reshape(len(tensor), 1, -1, *[1] * (other.dim() - 3))


def _check_inputs(state, keys, values, gates, mask, chunk_size) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
    expected = (*state.weights[0].shape[:2], keys.shape[2] if keys.dim() == 4 else -1, state.weights[0].shape[2])
    if tuple(keys.shape) != expected or tuple(values.shape) != (*expected[:3], state.weights[-1].shape[3]):
        raise ValueError(
            "keys and values must be (streams, heads, tokens, width) and fit the weights of the state, "
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
