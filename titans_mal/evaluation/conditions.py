"""The conditions of an evaluation: the model with its memory, and with a memory that is off, weak, empty or wrong.

Each is a function `(scorer, group) -> TableScores`, and sees the audio and the speakers of turns, never a gold label.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from .table_scoring import Group, TableScorer, TableScores


def memory(scorer: TableScorer, group: Group) -> TableScores:
    """Every turn reads what the conversation's earlier turns wrote."""
    return scorer.score(group.turns, group.fresh_cache(scorer.model))


def reads_off(scorer: TableScorer, group: Group) -> TableScores:
    """Every turn by itself, without memory; a LoRA on the host stays on."""
    with scorer.model.disable_memory():
        return scorer.score(group.turns, None)


def half_reads(scorer: TableScorer, group: Group) -> TableScores:
    """What is read counts half."""
    with _scaled_reads(scorer.model, 0.5):
        return memory(scorer, group)


def reset(scorer: TableScorer, group: Group) -> TableScores:
    """The memory is empty before every turn: what it does without any history."""
    return scorer.score(group.turns, None)


def other_state(scorer: TableScorer, group: Group) -> TableScores:
    """Every turn reads a memory of as many turns as its own history has, all of another conversation that shares no
    speaker with it; nothing of its own is written."""
    cache, scores = group.fresh_cache(scorer.model), TableScores()
    pairs = [(scorer.usable(c.turns), scorer.usable(c.partner)) for c in group.conversations if c.partner]
    for step in range(max((len(turns) for turns, _ in pairs), default=0)):
        # A partner may lack turns that cannot be used: what it cannot be a history for is not scored.
        now = [(turns[step], partner) for turns, partner in pairs if step < len(turns) and step <= len(partner)]
        scores.add(scorer.score([turn for turn, _ in now], cache, update_memory=False))
        # In the place of the turn that was scored, also where each speaker has a memory.
        history = [dataclasses.replace(turn, row=partner[step].row) for turn, partner in now if step < len(partner)]
        scorer.write(history, cache)
    return scores


def shuffled(scorer: TableScorer, group: Group) -> TableScores:
    """Each conversation's turns in a random order: histories are as long on average, but not what came before."""
    turns = []
    for conversation in group.conversations:
        rng = np.random.default_rng((scorer.seed, zlib.crc32(conversation.name.encode())))
        turns += [conversation.turns[i] for i in rng.permutation(len(conversation.turns))]
    return scorer.score(turns, group.fresh_cache(scorer.model))


CONDITIONS: dict[str, Callable[[TableScorer, Group], TableScores]] = {
    function.__name__: function for function in (memory, reads_off, half_reads, reset, other_state, shuffled)
}


@contextlib.contextmanager
def _scaled_reads(model, factor: float) -> Iterator[None]:
    """Within it, the residual of every memory layer is multiplied by `factor`."""

    def scale(layer, args, output):
        return dataclasses.replace(output, residual=factor * output.residual)

    handles = [layer.register_forward_hook(scale) for layer in model.titans_memory.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
