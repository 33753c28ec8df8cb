"""The arguments of a training: those of transformers, and the few that conversations add."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments

from ..processes import process_state
from .options import LABEL_NAMES, check_accelerator_config, check_options, wants_best_metric


CLASS_WEIGHTS = ("none", "balanced")
# What transformers calls gradient checkpointing, since 5.23 and before.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {given.name for given in fields(TrainingArguments)}
)


@dataclass
class ConversationTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` for `ConversationTrainer`.

    `per_device_train_batch_size` counts lanes, each with a window of turns, and `per_device_eval_batch_size` turns.
    `label_smoothing_factor` is that of the emotion labels. Where evaluations choose checkpoints or the learning rate,
    `metric_for_best_model` is "ua" by default. Columns of a table are never removed, whatever `remove_unused_columns`
    says.

    Args:
        window: turns of a conversation in a step, with gradients through what they write; at least 2, since what the
            last turn writes is not read in the step.
        class_weights: "none", or "balanced": labels that are rare count more, all labels the same in sum.
        checkpoint_blocks: decoder blocks keep their input alone and run again in the backward pass; transformers'
            gradient checkpointing, whose name depends on its version.
        soft_labels: learn the shares of raters' votes in the column `emotion_probabilities`, of turns that are scored.
        cache_audio: a folder for what the frozen audio tower computes, as `AudioTowerCache`; None: it is computed in
            each step.
        virtual_speakers: probability, from 0 to 1, with which a speaker of a conversation gets another voice
            (speed), microphone, room, level and noise (`VirtualSpeaker`), drawn again each time that the conversation
            is trained on. Not with `cache_audio`, since the audio changes.
        evaluation_resamples: of the bootstrap in the reports of evaluations during the training.

    Raises:
        ValueError: for a value that is not allowed, or an option of transformers that would be passed over or would
            lose turns or states, as `options.REFUSED` says.
        RuntimeError: if the processes that a launcher started do not know of each other.
    """

    window: int = field(default=8, metadata={"help": "Turns of a conversation that a step hears; at least 2."})
    class_weights: str = field(default="none", metadata={"help": "none or balanced."})
    checkpoint_blocks: bool = field(default=False, metadata={"help": "Run blocks again in the backward pass."})
    soft_labels: bool = field(default=False, metadata={"help": "Learn from the column emotion_probabilities."})
    cache_audio: str | None = field(default=None, metadata={"help": "Folder for the frozen audio tower's output."})
    virtual_speakers: float = field(
        default=0.0, metadata={"help": "Share of speakers that get another voice, 0 to 1."}
    )
    evaluation_resamples: int = field(default=200, metadata={"help": "Of the bootstrap in reports on the way."})

    def __post_init__(self):
        check_options(self)
        # The columns of a table are not the names of the model's inputs.
        self.remove_unused_columns = False
        self.label_names = LABEL_NAMES
        if self.metric_for_best_model is None and wants_best_metric(self):
            self.metric_for_best_model = "ua"
        # Without being told, accelerate takes processes on a CPU for unrelated ones.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.ddp_find_unused_parameters is None:
            # A window that holds one turn of each conversation reads nothing that was written in it.
            self.ddp_find_unused_parameters = True
        if self.checkpoint_blocks:
            setattr(self, CHECKPOINTING, True)
            setattr(self, f"{CHECKPOINTING}_kwargs", {"use_reentrant": False})
        super().__post_init__()
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be an integer of at least 2, got {self.window!r}.")
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights must be one of {CLASS_WEIGHTS}, got {self.class_weights!r}.")
        if not 0 <= self.virtual_speakers <= 1:
            raise ValueError(f"virtual_speakers must be between 0 and 1, got {self.virtual_speakers!r}.")
        if self.virtual_speakers and self.cache_audio:
            raise ValueError(
                "virtual_speakers changes the audio of each step, which cache_audio would keep: drop one."
            )
        if self.evaluation_resamples < 100:
            raise ValueError(f"evaluation_resamples must be at least 100, got {self.evaluation_resamples}.")
        check_accelerator_config(self.accelerator_config)
        if self.n_gpu > 1:  # which also sets up the processes
            raise ValueError(f"One process cannot train on {self.n_gpu} GPUs: let accelerate launch one for each.")
        process_state()
