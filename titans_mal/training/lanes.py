"""Lanes: which turns each step processes, so that long conversations continue in the next step.

A lane processes one conversation after the other, one window of turns per step. Its memory is carried from step to
step, detached from the graph (truncated back-propagation through time), and is reset for each conversation. The order
depends only on the seed and the number of lanes, not on how processes and accumulation divide them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from torch.utils.data import Sampler

from ..saved_options import differing_options


@dataclass(frozen=True)
class LaneTurn:
    """One turn of a batch.

    Attributes:
        row: row number in the table.
        lane: the lane whose memory it reads and writes.
        begins: whether it is the first turn of its conversation.
        visit: how many times its conversation was trained on before.
    """

    row: int
    lane: int
    begins: bool
    visit: int = 0


class LaneSampler(Sampler[list[LaneTurn]]):
    """The batches of one process: in each optimiser step, every lane advances by a window.

    An epoch has as many steps as the windows of all conversations fill; lanes continue across epochs, so none is ever
    idle.

    Args:
        conversations: rows of the turns of each conversation, in order.
        window: turns of a lane per step.
        lanes: per batch.
        batches: per optimiser step, over all processes and accumulation steps.
        process_index, num_processes: this process takes each `num_processes`-th batch of an optimiser step.
        seed: random seed of the order of conversations.

    Attributes:
        epoch: the epoch to iterate over; set before iterating.
    """

    def __init__(
        self,
        conversations: Sequence[Sequence[int]],
        *,
        window: int,
        lanes: int,
        batches: int,
        process_index: int = 0,
        num_processes: int = 1,
        seed: int = 0,
    ):
        self.epoch = 0
        self._conversations = conversations
        self._window = window
        self._lanes = lanes
        self._batches = batches
        self._mine = range(process_index, batches, num_processes)
        self._seed = seed
        windows = sum(-(-len(rows) // window) for rows in conversations)
        self.steps_per_epoch = max(1, -(-windows // (lanes * batches)))

    @property
    def plan(self) -> dict:
        """JSON-serialisable description of everything that determines the order; must be the same when resuming."""
        rows = json.dumps([list(map(int, rows)) for rows in self._conversations]).encode()
        return {
            "window": self._window,
            "lanes": self._lanes,
            "batches": self._batches,
            "seed": self._seed,
            "conversations": hashlib.sha256(rows).hexdigest()[:16],
        }

    def __len__(self) -> int:
        return self.steps_per_epoch * len(self._mine)

    def __iter__(self) -> Iterator[list[LaneTurn]]:
        first = self.epoch * self.steps_per_epoch
        for step in islice(self._steps(), first, first + self.steps_per_epoch):
            for batch in self._mine:
                lanes = step[batch * self._lanes : (batch + 1) * self._lanes]
                yield [turn for lane in lanes for turn in lane]

    def _steps(self) -> Iterator[list[list[LaneTurn]]]:
        """An endless sequence of optimiser steps, each with the turns of each lane."""
        stream = self._shuffled()
        left: list[list[LaneTurn]] = [[] for _ in range(self._lanes * self._batches)]
        while True:
            for lane, turns in enumerate(left):
                if not turns:
                    conversation, visit = next(stream)
                    rows = self._conversations[conversation]
                    left[lane] = [LaneTurn(row, lane, index == 0, visit) for index, row in enumerate(rows)]
            yield [turns[: self._window] for turns in left]
            left = [turns[self._window :] for turns in left]

    def _shuffled(self) -> Iterator[tuple[int, int]]:
        """An endless sequence of conversations, with the number of the round; each round has another order."""
        rng = np.random.default_rng(self._seed)
        for visit in count():
            yield from ((index, visit) for index in rng.permutation(len(self._conversations)).tolist())


def check_plan(saved: dict, present: dict) -> None:
    """Check that a checkpoint is of a training with the same lanes and data.

    Fields that checkpoints of earlier versions do not have are not compared.

    Raises:
        ValueError: naming what differs.
    """
    differing = differing_options(saved, present, ignored={*saved} ^ {*present})
    if differing:
        raise ValueError(
            f"The checkpoint belongs to a training with different lanes or data ({'; '.join(differing.values())})."
        )
