"""A batch of turns: each reads what the turns of its stream before it wrote, and is written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from .memory_bounds import is_within_bounds
from .memory_chunks import MemoryChunk, cut_into_chunks, cut_tokens
from .neural_memory import NeuralMemoryState, WrittenChunks, read_memory, write_chunks


class Tokens(NamedTuple):
    """What a memory layer projects its tokens to.

    Attributes:
        queries, keys, values: (rows, heads, tokens, head_dim).
        forget, momentum, step: (rows, heads, tokens), the gates.
        written: (rows, tokens) bool, the first tokens of each row; keys and values of the others are zero. None: all.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    forget: Tensor
    momentum: Tensor
    step: Tensor
    written: Tensor | None


class HeardTurns(NamedTuple):
    """What `hear_turns` gives.

    Attributes:
        answers: (rows, heads, tokens, head_dim).
        errors: (rows, heads, tokens), ``||M(k) - v||^2`` with M as the turn began, without a gradient.
        is_rejected: (rows,) bool, the turns that left no good memory and were not written; None for "normalized".
        state: of the streams after their turns.
    """

    answers: Tensor
    errors: Tensor
    is_rejected: Tensor | None
    state: NeuralMemoryState


def hear_turns(
    state: NeuralMemoryState,
    tokens: Tokens,
    turns: Sequence[int],
    *,
    read: str,
    chunk_size: int,
    step_rule: str,
    write: bool = True,
) -> HeardTurns:
    """Read and write turns, those of a stream one after the other; all that needs no memory is computed at once.

    Args:
        state: of the streams.
        tokens: of the rows: the first turns of all streams, then the second turns of those that have one, ...
        turns: how many streams have a first turn, a second one, ...; never more than before. The sum is rows.
        read, chunk_size, step_rule: as in `TitansMemoryConfig`.
        write: False reads only.
    """
    rules = {"chunk_size": chunk_size, "step_rule": step_rule}
    answers, errors, rejected, finished = [], [], [], []
    for count, turn in zip(turns, _take_apart(tokens, turns, read=read, write=write, **rules)):
        if count < len(state.weights[0]):
            finished.append(state[count:])
            state = state[:count]
        written, is_good = _write_turn(state, turn, step_rule)
        answers.append(written.answers[:, :, : turn.keys.shape[2]])
        errors.append(_square_errors(state, turn, written.errors))
        rejected += [] if is_good is None else [~is_good]
        state = written.state if write else state
    # Streams end in the order of their number of turns, the ones with the fewest last.
    state = NeuralMemoryState.concatenate([state, *reversed(finished)]) if finished else state
    return HeardTurns(_join(answers), _join(errors), _join(rejected) if rejected and write else None, state)


class _Turn(NamedTuple):
    """One turn of each stream that has it: keys and values (streams, heads, tokens, head_dim), without a gradient;
    what the chunks read, one after the other; and the chunks, none where nothing is to be written."""

    keys: Tensor
    values: Tensor
    queries: Sequence[Tensor]
    chunks: Sequence[MemoryChunk]


def _take_apart(tokens: Tokens, turns: Sequence[int], *, read: str, write: bool, **rules) -> list[_Turn]:
    """Cut all turns into chunks, and take them apart."""
    queries, keys, values, forget, momentum, step, written = tokens
    chunks, queries = [], [queries]
    if keys.shape[2] and (write or read == "chunk"):
        gates = {"forget": forget, "momentum": momentum, "step": step}
        chunks = cut_into_chunks(keys, values, **gates, written=written, **rules)
    if chunks and read == "chunk":
        queries = cut_tokens(tokens.queries, rules["chunk_size"]).unbind(2)

    def split(tensor: Tensor) -> Sequence[Tensor]:
        return [tensor] if len(turns) == 1 else tensor.split(turns)

    of_chunks = [[MemoryChunk(*parts) for parts in zip(*map(split, chunk))] for chunk in chunks]
    parts = split(keys.detach()), split(values.detach()), zip(*map(split, queries)), zip(*of_chunks)
    return [_Turn(*turn) for turn in zip_longest(*parts, fillvalue=())]


def _write_turn(state: NeuralMemoryState, turn: _Turn, step_rule: str) -> tuple[WrittenChunks, Tensor | None]:
    """Read and write a turn; and (streams,) bool, whether it left a good memory: where not, it was not written."""
    if not turn.chunks:
        return WrittenChunks(read_memory(state.weights, *turn.queries), None, state), None
    written = write_chunks(state, turn.chunks, step_rule, turn.queries)
    if step_rule == "normalized":
        return written, None
    errors, is_good = written.errors, is_within_bounds((*written.state.weights, *written.state.momentum))
    if not torch.compiler.is_compiling() and not bool(is_good.all()):
        # Written once more without those turns, since no gradient comes back from numbers that are not finite.
        chunks = [chunk.without(~is_good) for chunk in turn.chunks]
        written = write_chunks(state, chunks, step_rule, turn.queries)
    before = read_memory(state.weights, torch.cat(turn.queries, dim=2))
    answers = torch.where(is_good[:, None, None, None], written.answers, before)
    return WrittenChunks(answers, errors, written.state.where(is_good, state)), is_good


@torch.no_grad()
def _square_errors(state: NeuralMemoryState, turn: _Turn, first: Tensor | None) -> Tensor:
    """(streams, heads, tokens), ``||M(k) - v||^2``; `first` are the errors of the first tokens if they are known."""
    known = 0 if first is None else first.shape[2]
    later = read_memory(state.weights, turn.keys[:, :, known:]) - turn.values[:, :, known:]
    return torch.cat([_square_norm(errors) for errors in (first, later) if errors is not None], dim=2)


def _square_norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dim=-1).square()


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
