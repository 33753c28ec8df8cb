"""State of the processes that a launcher started for one task."""

from __future__ import annotations

import gc
import os

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """accelerate's state of the processes, which supports the CPU as well.

    Raises:
        RuntimeError: if the launched processes are not connected; each would do all of the work and overwrite the
            others' results.
    """
    # Without cpu=True, accelerate treats processes on a CPU as unrelated.
    state = PartialState(cpu=not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != launched:
        raise RuntimeError(
            f"The launcher started {launched} processes, but accelerate was initialised with {state.num_processes}: "
            "restart Python and call this first."
        )
    return state


def end_processes() -> None:
    """Leave the process group when all work is done and no wrapped or sharded model is referenced any more.

    If left to interpreter shutdown, a gloo thread that still holds a tensor aborts the process ("terminate called
    without an active exception", https://github.com/pytorch/pytorch/issues/190489).
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Free wrapped models first: the last reference to the group joins its threads while holding the GIL, which
        # they may be waiting for.
        gc.collect()
        torch.distributed.destroy_process_group()
