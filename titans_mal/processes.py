"""The processes that share a task, as a launcher started them."""

from __future__ import annotations

import gc
import os

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """accelerate's view of the processes, on a CPU as well.

    Raises:
        RuntimeError: if a launcher started processes that do not know of each other, which would all do all of the
            work and write over each other's results.
    """
    # Without being told, accelerate takes processes on a CPU for unrelated ones.
    state = PartialState(cpu=not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != launched:
        raise RuntimeError(
            f"The launcher started {launched} processes, and accelerate sees {state.num_processes}: it was set up for "
            "something else before. Start Python anew, and call this first."
        )
    return state


def end_processes() -> None:
    """Take leave of the other processes, when all work is done and nothing holds a wrapped or sharded model any more.

    Left to the end of the interpreter, a thread of gloo that still holds a tensor aborts it ("terminate called without
    an active exception", https://github.com/pytorch/pytorch/issues/190489).
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Wrapped models go first: the last to hold the group joins its threads with Python's lock held, which they may
        # be waiting for.
        gc.collect()
        torch.distributed.destroy_process_group()
