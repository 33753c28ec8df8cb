"""Training arguments: those of transformers, and a few for conversations."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from transformers import TrainingArguments

from ..modeling.deprecation import warn_renamed
from ..modeling.turn_rules import check_flag
from ..processes import process_state
from .options import LABEL_NAMES, check_accelerator_config, check_options, wants_best_metric


CLASS_WEIGHTS = ("none", "balanced")
# The name of gradient checkpointing in transformers, which changed in 5.23.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {given.name for given in fields(TrainingArguments)}
)


@dataclass
class ConversationTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` for `ConversationTrainer`.

    `per_device_train_batch_size` is the number of lanes, each with a window of turns, and `per_device_eval_batch_size`
    the number of turns. `label_smoothing_factor` applies to the emotion labels. If evaluations choose checkpoints or
    the learning rate, `metric_for_best_model` is "ua" by default. Columns of a table are never removed, whatever
    `remove_unused_columns` is.

    Args:
        window: number of turns of a conversation per step, with gradients through what they write; at least 2, since
            what the last turn writes is not read within the step.
        class_weights: "none", or "balanced": the loss is weighted so that all labels contribute equally.
        checkpoint_blocks: gradient checkpointing of the decoder blocks (its name in transformers depends on the
            version).
        soft_labels: train on the raters' votes in the column `emotion_probabilities`, for scored turns.
        cache_audio: folder for the outputs of the frozen audio tower (see `AudioTowerCache`); None: they are computed
            in each step.
        virtual_speakers: probability, from 0 to 1, that a speaker of a conversation gets another voice (speed),
            microphone, room, level and noise (`VirtualSpeaker`), drawn each time the conversation is trained on. Not
            with `cache_audio`, since the audio changes.
        evaluation_resamples: number of bootstrap resamples in evaluations during training.

    Raises:
        ValueError: for an invalid value, or an option of transformers that has no effect here or would lose turns or
            states (see `options.REJECTED`).
        RuntimeError: if the processes that a launcher started are not connected.
    """

    if TYPE_CHECKING:
        output_dir: str = "trainer_output"  # what transformers makes of None

    window: int = field(
        default=8, metadata={"help": "Number of turns of each conversation in one training step, at least 2."}
    )
    class_weights: str = field(
        default="none", metadata={"help": "Weights of the labels in the loss: none, or balanced (inverse frequency)."}
    )
    checkpoint_blocks: bool = field(
        default=False,
        metadata={"help": "Gradient checkpointing: recompute decoder blocks in the backward pass to save memory."},
    )
    soft_labels: bool = field(
        default=False, metadata={"help": "Train on the raters' votes (column emotion_probabilities)."}
    )
    cache_audio: str | None = field(
        default=None, metadata={"help": "Folder in which outputs of the frozen audio tower are cached."}
    )
    virtual_speakers: float = field(
        default=0.0,
        metadata={
            "help": "Probability, from 0 to 1, that a speaker's audio is augmented to another voice and channel."
        },
    )
    evaluation_resamples: int = field(
        default=200, metadata={"help": "Number of bootstrap resamples in evaluations during training."}
    )

    def __post_init__(self):
        former = self.metric_for_best_model
        if former is not None and former.endswith("_reads_off"):
            self.metric_for_best_model = f"{former.removesuffix('_reads_off')}_memory_off"
            warn_renamed(f"The metric {former}", self.metric_for_best_model)
        check_options(self)
        # Trainer would remove all columns, since their names differ from the model's inputs.
        self.remove_unused_columns = False
        self.label_names = LABEL_NAMES
        if self.metric_for_best_model is None and wants_best_metric(self):
            self.metric_for_best_model = "ua"
        # Without it, accelerate treats processes on a CPU as unrelated.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.ddp_find_unused_parameters is None:
            # If a window holds a single turn of each conversation, nothing that it writes is read.
            self.ddp_find_unused_parameters = True
        if self.checkpoint_blocks:
            setattr(self, CHECKPOINTING, True)
            setattr(self, f"{CHECKPOINTING}_kwargs", {"use_reentrant": False})
        super().__post_init__()
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be an integer of at least 2, got {self.window!r}.")
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"class_weights must be one of {CLASS_WEIGHTS}, got {self.class_weights!r}.")
        share = self.virtual_speakers
        if isinstance(share, bool | str) or not 0 <= share <= 1:
            raise ValueError(f"virtual_speakers must be between 0 and 1, got {share!r}.")
        check_flag(self.soft_labels, "soft_labels")
        if self.virtual_speakers and self.cache_audio:
            raise ValueError(
                "virtual_speakers changes the audio in each step, so cache_audio cannot be used: disable one of them."
            )
        if self.evaluation_resamples < 100:
            raise ValueError(f"evaluation_resamples must be at least 100, got {self.evaluation_resamples}.")
        check_accelerator_config(self.accelerator_config)
        if self.n_gpu > 1:  # which also sets up the processes
            raise ValueError(f"One process cannot train on {self.n_gpu} GPUs: use accelerate launch.")
        process_state()
