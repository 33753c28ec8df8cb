"""A batch of turns: each reads what the turns of its stream before it wrote, and is written."""

from __future__ import annotations

from collections.abc import Sequence
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
        is_rejected: (rows,) bool, the turns that left no good memory and were not written; None where none can be:
            with "normalized", `write=False` or no tokens.
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
    answers, errors, rejected, finished = [], [], [], []
    of_turns = _cut_into_turns(tokens, turns, read=read, chunk_size=chunk_size, step_rule=step_rule, write=write)
    for count, turn in zip(turns, of_turns):
        if count < len(state.weights[0]):
            finished.append(state[count:])
            state = state[:count]
        after, is_good = _hear_turn(state, turn, step_rule)
        answers.append(after.answers[:, :, : turn.keys.shape[2]])
        errors.append(_square_errors(state, turn, after.errors))
        if is_good is not None:
            rejected.append(~is_good)
        if write:
            state = after.state
    if finished:
        # The streams with the fewest turns are the last of the batch, and the first to finish.
        state = NeuralMemoryState.concatenate([state, *reversed(finished)])
    return HeardTurns(_join(answers), _join(errors), _join(rejected) if rejected and write else None, state)


class _Turn(NamedTuple):
    """One turn of each stream that has it.

    Attributes:
        keys, values: (streams, heads, tokens, head_dim), without a gradient.
        queries: what the first chunks read, each (streams, heads, any number, head_dim).
        chunks: to be written, one after the other; none where the turn is only read.
    """

    keys: Tensor
    values: Tensor
    queries: Sequence[Tensor]
    chunks: Sequence[MemoryChunk]


def _cut_into_turns(tokens, turns, *, read, chunk_size, step_rule, write) -> list[_Turn]:
    """The tokens of each turn, and its chunks where it is written or read chunk by chunk."""
    queries, keys, values, forget, momentum, step, written = tokens
    of_chunks, chunks = [queries], []
    if keys.shape[2] and (write or read == "chunk"):
        gates = {"forget": forget, "momentum": momentum, "step": step}
        rules = {"written": written, "chunk_size": chunk_size, "step_rule": step_rule}
        chunks = cut_into_chunks(keys, values, **gates, **rules)
        if read == "chunk":
            of_chunks = cut_tokens(queries, chunk_size).unbind(2)

    def split(tensor: Tensor) -> Sequence[Tensor]:
        # The gradient of a split is a copy, also where there is one part.
        return [tensor] if len(turns) == 1 else tensor.split(turns)

    chunks_of_turns = [[] for _ in turns]
    for chunk in chunks:
        for of_turn, parts in zip(chunks_of_turns, zip(*map(split, chunk))):
            of_turn.append(MemoryChunk(*parts))
    queries_of_turns = zip(*map(split, of_chunks))
    parts = zip(split(keys.detach()), split(values.detach()), queries_of_turns, chunks_of_turns)
    return [_Turn(*turn) for turn in parts]


def _hear_turn(state: NeuralMemoryState, turn: _Turn, step_rule: str) -> tuple[WrittenChunks, Tensor | None]:
    """Read and write a turn; and (streams,) bool, whether it left a good memory: where not, it was not written."""
    if not turn.chunks:
        return WrittenChunks(read_memory(state.weights, *turn.queries), None, state), None
    after = write_chunks(state, turn.chunks, step_rule, turn.queries)
    if step_rule == "normalized":
        return after, None
    is_good = is_within_bounds((*after.state.weights, *after.state.momentum))
    if torch.compiler.is_compiling() or not is_good.all():
        # Written once more without those turns, since no gradient comes back from numbers that are not finite.
        chunks = [chunk.without(~is_good) for chunk in turn.chunks]
        after = write_chunks(state, chunks, step_rule, turn.queries)._replace(errors=after.errors)
    return after, is_good


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
