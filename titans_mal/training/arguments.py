"""The arguments of a training: those of transformers, and the few that conversations add."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from transformers import TrainingArguments

from ..processes import process_state


CLASS_WEIGHTS = ("none", "balanced")
# What transformers calls gradient checkpointing, since 5.23 and before.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in {given.name for given in fields(TrainingArguments)}
)
# Options of transformers that would break what this trainer promises.
_REFUSED = {
    "auto_find_batch_size": "would change the number of lanes on the way: choose a batch size",
    "save_only_model": "leaves checkpoints that no training can go on from",
    "ignore_data_skip": "would go on with other turns than those that were left",
    "fp16": "scales the loss until it overflows, which is counted as a skipped step here: use bf16",
}


@dataclass
class ConversationTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` for `ConversationTrainer`.

    `per_device_train_batch_size` counts lanes, each with a window of turns, and `per_device_eval_batch_size` turns.

    Args:
        window: turns of a conversation that a step hears, with gradients through what they write; at least 2, for what
            the last turn writes is read by none.
        class_weights: "none", or "balanced": labels that are rare count more, all labels the same in sum.
        checkpoint_blocks: decoder blocks keep their input alone and run again in the backward pass; transformers'
            gradient checkpointing, whose name depends on its version.
        soft_labels: learn the shares of raters' votes in the column `emotion_probabilities`, of turns that are scored.
        evaluation_resamples: of the bootstrap in the reports of evaluations during the training.

    Raises:
        ValueError: for a value that is not allowed, or an option of transformers that would lose turns or states.
        RuntimeError: if the processes that a launcher started do not know of each other.
    """

    window: int = field(default=8, metadata={"help": "Turns of a conversation that a step hears; at least 2."})
    class_weights: str = field(default="none", metadata={"help": "none or balanced."})
    checkpoint_blocks: bool = field(default=False, metadata={"help": "Run blocks again in the backward pass."})
    soft_labels: bool = field(default=False, metadata={"help": "Learn from the column emotion_probabilities."})
    evaluation_resamples: int = field(default=200, metadata={"help": "Of the bootstrap in reports on the way."})

    def __post_init__(self):
        # The columns of a table are not the names of the model's inputs.
        self.remove_unused_columns = False
        self.label_names = ["emotion_labels"]
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
        if self.save_total_limit == 1:
            raise ValueError("save_total_limit=1 leaves no other checkpoint where one is corrupted: use 2 or more.")
        if self.evaluation_resamples < 100:
            raise ValueError(f"evaluation_resamples must be at least 100, got {self.evaluation_resamples}.")
        for name, reason in _REFUSED.items():
            if getattr(self, name):
                raise ValueError(f"{name} {reason}.")
        if self.n_gpu > 1:  # which also sets up the processes
            raise ValueError(f"One process cannot train on {self.n_gpu} GPUs: let accelerate launch one for each.")
        process_state()
