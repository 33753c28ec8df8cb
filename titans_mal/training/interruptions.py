"""Interruptions of a training: signals to stop, and steps that are not finite."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging


logger = logging.get_logger(__name__)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; must be called by all processes."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    return bool(reduce(torch.tensor(float(flag), device=state.device), reduction="sum") > 0)


class StopOnSignal(TrainerCallback):
    """On SIGTERM or SIGINT, saves a checkpoint after the step and ends the training in all processes.

    Attributes:
        received: number of the signal that ended the training; None if none did.
    """

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.received = None
        # Only the main thread may set handlers; in other threads, the caller's handlers are kept.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)

    def on_step_end(self, args, state, control, **kwargs):
        if any_process(self.received is not None):
            self.received = self.received or int(signal.SIGTERM)
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(self, args, state, control, **kwargs):
        # Skip the evaluation, which may take longer than the time left before a kill.
        control.should_evaluate &= self.received is None

    def on_train_end(self, args, state, control, **kwargs):
        if any_process(self.received is not None):
            self.received = self.received or int(signal.SIGTERM)

    def restore_handlers(self) -> None:
        """Restore the signal handlers from before the training."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number, frame):
        if self.received is not None:  # second signal
            raise KeyboardInterrupt
        self.received = number
        logger.warning(f"{signal.Signals(number).name}: a checkpoint is saved after this step.")


class SkippedSteps(TrainerCallback, ExportableState):
    """Skips optimiser steps whose loss or gradients are not finite, and counts them.

    Attributes:
        count: steps skipped since the training began.
        unlogged: number of those since the last log.
    """

    def __init__(self, count: int = 0):
        self.count = count
        self.unlogged = 0
        self._is_bad = False

    def state(self) -> dict:
        return {"args": {"count": self.count}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        # Trainer itself restores callbacks only on request.
        self.count = state.stateful_callbacks[type(self).__name__]["args"]["count"]

    def mark(self) -> None:
        """Mark the present step's loss as not finite."""
        self._is_bad = True

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        is_finite = bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
        if any_process(self._is_bad or not is_finite):
            # Without gradients, the optimiser changes neither weights nor moments.
            model.zero_grad(set_to_none=True)
            self.count += 1
            self.unlogged += 1
            logger.warning(f"Step {state.global_step + 1} is skipped: its loss or gradients are not finite.")
        self._is_bad = False
