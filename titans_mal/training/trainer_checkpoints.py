"""Checkpoints of a training: they hold the lanes' memory, and only complete ones are resumed."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput

from ..evaluation.protocol import data_fingerprint
from ..modeling.audio_emotion_mixin import AudioEmotionMixin
from ..modeling.json_text import read_json
from .arguments import ConversationTrainingArguments
from .checkpoints import find_damage, keep_latest, last_good_checkpoint, seal_checkpoint, set_aside_broken
from .interruptions import StopOnSignal
from .lane_states import LaneStates
from .lanes import check_plan
from .weights import load_trained_weights
from .windows import TurnDataset


# Files of a checkpoint: the lanes' states, and the data that determines which turns they process.
LANES_FOLDER, PLAN_FILE = "lanes", "plan.json"


class CheckpointingTrainer(Trainer):
    """A Trainer that saves the state of its lanes in its checkpoints, and resumes from complete ones."""

    args: ConversationTrainingArguments
    model: AudioEmotionMixin
    # Set by `ConversationTrainer`.
    lane_sampler: Any
    train_dataset: TurnDataset
    stopped: StopOnSignal
    _lane_states: LaneStates
    _audio_cache: AbstractContextManager

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As Trainer's, but resumes only from complete checkpoints.

        Args:
            resume_from_checkpoint: a folder, or True for the last complete checkpoint of `output_dir`.
            trial, ignore_keys_for_eval: as in `transformers.Trainer.train`.

        Raises:
            ValueError: for an incomplete or missing checkpoint, or one of other lanes or data.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_good_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir} has no complete checkpoint.")
        elif resume_from_checkpoint and (wrong := find_damage(resume_from_checkpoint)):
            raise ValueError(f"{resume_from_checkpoint} cannot be resumed: {wrong}.")
        if resume_from_checkpoint:
            if self.is_world_process_zero():
                set_aside_broken(self.args.output_dir, after=resume_from_checkpoint)
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= self.total_steps:
                # Otherwise Trainer would take one more step before it stops.
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        try:
            with self._audio_cache:
                return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)
        finally:
            self.stopped.restore_handlers()

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps of the whole training."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * self.lane_sampler.steps_per_epoch)

    @property
    def _plan(self) -> dict[str, Any]:
        """What must be the same when the training is resumed: the lanes, and the turns with their labels."""
        return {**self.lane_sampler.plan, "data": data_fingerprint(self.train_dataset.table)}

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self._lane_states.save(folder / LANES_FOLDER)
        if self.args.should_save:
            (folder / LANES_FOLDER).mkdir(parents=True, exist_ok=True)
            (folder / LANES_FOLDER / PLAN_FILE).write_text(json.dumps(self._plan))
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # Remove older checkpoints only after this one is complete.
            seal_checkpoint(folder)
            if limit is not None:
                keep_latest(self.args.output_dir, limit, best=self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            # Remove the pickled arguments, which should not have to be trusted.
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        lanes = Path(resume_from_checkpoint) / LANES_FOLDER
        check_plan(read_json(lanes / PLAN_FILE, dict), self._plan)
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained_weights(self.model if model is None else model, resume_from_checkpoint)
        self._lane_states.load(lanes, self.args.device)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            best = Path(self.state.best_model_checkpoint)
            if not best.is_dir():  # the training was moved, or names its folder in another way
                best = Path(self.args.output_dir) / best.name
            load_trained_weights(self.model, best)
