"""Messages of a training at its start, and its recipe at the end."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch

from ..saved_options import differing_options
from ..training_recipe import LICENCES, RECIPE_FILE, licences_of, read_recipe
from .arguments import ConversationTrainingArguments
from .memory_estimate import NotEstimatedError, StepShape, estimate_training_memory, on_meta
from .options import default_of
from .trained_parts import trained_parameters
from .trainer import ConversationTrainer


# The training arguments that the recipe, and thus the model card, includes.
_IN_RECIPE = (
    "window", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "class_weights", "soft_labels", "bf16", "num_train_epochs", "seed",
)  # fmt: skip
# Others that change the trained model, included if they are not the default.
_IF_CHANGED = frozenset((
    "max_steps", "lr_scheduler_kwargs", "optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha", "data_seed",
    "virtual_speakers", "load_best_model_at_end", "metric_for_best_model",
))  # fmt: skip
# What a recipe says of the training itself, beyond its options.
_MEASURED = ("steps", "skipped steps", "processes", "trained parameters")


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


def recipe_of(options: dict, arguments: ConversationTrainingArguments) -> dict:
    """The options that determine a trained model, by which reports also tell which runs are of one model."""
    # Local folders are recorded by name, without their path.
    recipe = {n: Path(v).name if isinstance(v, str) and Path(v).is_dir() else v for n, v in options.items()}
    recipe.pop("data_dir")
    recipe |= {name: getattr(arguments, name) for name in _IN_RECIPE}
    for option in fields(arguments):
        value = getattr(arguments, option.name)
        if option.name in _IF_CHANGED and value != default_of(option):
            recipe[option.name] = value
    return {name: value for name, value in recipe.items() if value is not None and value is not False}


def write_options(options: dict, arguments: ConversationTrainingArguments) -> None:
    """Write the options of a training into its folder, for `check_same_options`."""
    (Path(arguments.output_dir) / RECIPE_FILE).write_text(json.dumps(recipe_of(options, arguments), indent=2) + "\n")


def check_same_options(options: dict, arguments: ConversationTrainingArguments, *, is_longer: bool) -> None:
    """Check that the training in `output_dir` has the given options; earlier versions did not write them.

    Args:
        is_longer: whether the number of steps and epochs may differ.

    Raises:
        ValueError: naming those that differ, with the values.
    """
    folder = Path(arguments.output_dir)
    saved, present = read_recipe(folder), json.loads(json.dumps(recipe_of(options, arguments)))
    differing = differing_options(saved, present, ignored=("max_steps", "num_train_epochs") if is_longer else ())
    if saved and differing:
        raise ValueError(
            f"{folder} was trained with other options ({'; '.join(differing.values())}): give another --output-dir."
        )


def write_recipe(trainer: ConversationTrainer, options: dict, folder: Path) -> None:
    """Write `training_recipe.json` for the model card: what was trained, on which data, and how."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = sum(count for name, count in trained_parameters(model).items() if name != "frozen")
    numbers = (trainer.state.global_step, trainer.skipped.count, trainer.args.world_size, trained)
    recipe = recipe_of(options, trainer.args) | dict(zip(_MEASURED, numbers))
    # A model that is trained further has been trained on the corpora of its base too.
    base = Path(options["base_model"])
    if licences := licences_of(read_recipe(base)) if base.is_dir() else {}:
        recipe[LICENCES] = licences
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
