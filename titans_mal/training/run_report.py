"""Messages of a training at its start, and its recipe at the end."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..training_recipe import RECIPE_FILE
from .memory_estimate import NotEstimatedError, StepShape, estimate_training_memory, on_meta
from .trained_parts import trained_parameters
from .trainer import ConversationTrainer


# The training arguments that the recipe, and thus the model card, includes.
_IN_RECIPE = (
    "window", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "class_weights", "soft_labels", "bf16", "seed",
)  # fmt: skip


def print_start(trainer: ConversationTrainer) -> None:
    """Print trained parameters by part, turns and tokens per step, and the estimated memory."""
    if not trainer.is_world_process_zero():
        return
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    batch = trainer.data_collator([trainer.train_dataset[trainer.train_dataset.longest_turn()]])
    positions = batch["input_ids"].shape[1]
    audio_tokens = int(model.audio_mask(batch["input_ids"], batch).sum(-1).max())
    shape = StepShape(args.per_device_train_batch_size, args.window, positions, audio_tokens)
    parts = {name: count for name, count in trained_parameters(model).items() if count}
    try:
        estimate = str(estimate_training_memory(on_meta(model), shape, gradient_checkpointing=args.checkpoint_blocks))
    except NotEstimatedError as error:
        estimate = f"not estimated: {error}"
    batches = args.gradient_accumulation_steps * args.world_size
    print("Parameters: " + ", ".join(f"{name} {count:,}" for name, count in parts.items()))
    print(
        f"A step: {batches} batches of {shape.lanes} lanes of up to {shape.window} turns; the longest turn has "
        f"{positions} positions, {audio_tokens} of them audio: up to {batches * shape.tokens:,} tokens per step."
    )
    print(f"Memory per process, without sharding and temporary memory of the audio tower: {estimate}")


def print_peak() -> None:
    """Print the peak memory of this process's device, to compare with the estimate."""
    if torch.cuda.is_available():
        print(f"Peak memory of the device: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB.")


def write_recipe(trainer: ConversationTrainer, options: dict, folder: Path) -> None:
    """Write `training_recipe.json` for the model card: what was trained, on which data, and how."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Local folders are recorded by name, without their path.
    recipe = {n: Path(v).name if isinstance(v, str) and Path(v).is_dir() else v for n, v in options.items()}
    recipe.pop("data_dir")
    recipe |= {name: getattr(trainer.args, name) for name in _IN_RECIPE}
    recipe = {name: value for name, value in recipe.items() if value is not None and value is not False}
    recipe |= {
        "steps": trainer.state.global_step,
        "skipped steps": trainer.skipped.count,
        "processes": trainer.args.world_size,
        "trained parameters": sum(count for name, count in trained_parameters(model).items() if name != "frozen"),
    }
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
