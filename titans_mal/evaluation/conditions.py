"""The conditions of an evaluation: with memory, and with the memory off, at half strength, empty or wrong.

Each is a function `(scorer, group) -> TableScores` that sees audio and speakers of turns, but no gold labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from .table_scoring import Group, TableScorer, TableScores


def memory(scorer: TableScorer, group: Group) -> TableScores:
    """Every turn reads what earlier turns of its conversation wrote."""
    return scorer.score(group.turns, group.fresh_cache(scorer.model))


def memory_off(scorer: TableScorer, group: Group) -> TableScores:
    """Every turn without memory; a LoRA on the host stays on."""
    with scorer.model.disable_memory():
        return scorer.score(group.turns, None)


def memory_half(scorer: TableScorer, group: Group) -> TableScores:
    """The memory's residual is multiplied by 0.5."""
    with _scaled_reads(scorer.model, 0.5):
        return memory(scorer, group)


def reset(scorer: TableScorer, group: Group) -> TableScores:
    """The memory is empty before every turn: its effect without any history."""
    return scorer.score(group.turns, None)


def other_state(scorer: TableScorer, group: Group) -> TableScores:
    """Every turn reads a memory with as many turns as its own history, but of another conversation without common
    speakers; its own turns are not written."""
    cache, scores = group.fresh_cache(scorer.model), TableScores()
    pairs = [(scorer.usable(c.turns), scorer.usable(c.partner)) for c in group.conversations if c.partner]
    for step in range(max((len(turns) for turns, _ in pairs), default=0)):
        # Unusable turns may make a partner too short; turns without a full history are then not scored.
        now = [(turns[step], partner) for turns, partner in pairs if step < len(turns) and step <= len(partner)]
        scores.add(scorer.score([turn for turn, _ in now], cache, update_memory=False))
        # At the position of the scored turn, so that speakers' memories match if memory is kept per speaker.
        history = [dataclasses.replace(turn, row=partner[step].row) for turn, partner in now if step < len(partner)]
        scorer.write(history, cache)
    return scores


def shuffled(scorer: TableScorer, group: Group) -> TableScores:
    """Each conversation's turns in random order: histories are as long on average, but in the wrong order."""
    turns = []
    for conversation in group.conversations:
        rng = np.random.default_rng((scorer.seed, zlib.crc32(conversation.name.encode())))
        turns += [conversation.turns[i] for i in rng.permutation(len(conversation.turns))]
    return scorer.score(turns, group.fresh_cache(scorer.model))


CONDITIONS: dict[str, Callable[[TableScorer, Group], TableScores]] = {
    function.__name__: function for function in (memory, memory_off, memory_half, reset, other_state, shuffled)
}


@contextlib.contextmanager
def _scaled_reads(model, factor: float) -> Iterator[None]:
    """Within this context, the residual of every memory layer is multiplied by `factor`."""

    def scale(layer, args, output):
        return dataclasses.replace(output, residual=factor * output.residual)

    handles = [layer.register_forward_hook(scale) for layer in model.titans_memory.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
