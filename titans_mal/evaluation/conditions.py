"""The ways in which a model hears conversations: with its memory, and with a memory that is off, weak, empty or wrong.

Each is a function `(listener, group) -> Heard`, and sees the sound and the speakers of turns, never a gold label.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from .listener import Group, Heard, Listener


def memory(listener: Listener, group: Group) -> Heard:
    """Every turn reads what the conversation's earlier turns wrote."""
    return listener.hear(group.turns, group.fresh_cache(listener.model))


def reads_off(listener: Listener, group: Group) -> Heard:
    """The host alone: every turn by itself."""
    with listener.model.disable_memory():
        return listener.hear(group.turns, None)


def half_reads(listener: Listener, group: Group) -> Heard:
    """What is read counts half."""
    with _scaled_reads(listener.model, 0.5):
        return memory(listener, group)


def reset(listener: Listener, group: Group) -> Heard:
    """The memory is empty before every turn: what it does without any history."""
    return listener.hear(group.turns, None)


def other_state(listener: Listener, group: Group) -> Heard:
    """Every turn reads the state that another conversation left, the next one of the data; nothing is written."""
    cache = group.fresh_cache(listener.model)
    listener.write(group.partner_turns, cache)
    return listener.hear(group.turns, cache, update_memory=False)


def shuffled(listener: Listener, group: Group) -> Heard:
    """Each conversation's turns in a random order: histories are as long on average, but not what came before."""
    turns = []
    for conversation in group.conversations:
        rng = np.random.default_rng((listener.seed, zlib.crc32(conversation.name.encode())))
        turns += [conversation.turns[i] for i in rng.permutation(len(conversation.turns))]
    return listener.hear(turns, group.fresh_cache(listener.model))


CONDITIONS: dict[str, Callable[[Listener, Group], Heard]] = {
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
