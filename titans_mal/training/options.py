"""Options of transformers' Trainer that this training supports or rejects, and why.

Every field of `TrainingArguments` is in one of the two tables (checked by
`tests/titans_mal/training/test_options.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig


if TYPE_CHECKING:
    from .arguments import ConversationTrainingArguments


# Supported: as in Trainer itself, or implemented by `ConversationTrainer`.
HONOURED = frozenset((
    "output_dir", "per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "max_steps",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "gradient_accumulation_steps", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha",
    "bf16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_cache", "torch_empty_cache_steps",
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter",
    "include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm",
    "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "hub_private_repo",  # used by trackio
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start",
    "save_strategy", "save_steps", "save_on_each_node", "save_total_limit",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "restore_callback_states_from_checkpoint",
    "full_determinism", "seed", "data_seed", "use_cpu", "accelerator_config",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "remove_unused_columns", "label_names",
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph",
    "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config",
    "debug", "skip_memory_metrics", "do_train", "do_eval", "local_rank",
))  # fmt: skip

_NO_LOOP = "belongs to Trainer's evaluation loop, which is not used: whole conversations are evaluated instead"
_LANES = "the order of turns is determined by their conversations and lanes"
_PUBLISH = "training does not publish: use `titans-mal publish` with the folder of the trained model"
# Rejected for any value other than the default.
REJECTED = {
    "auto_find_batch_size": "would change the number of lanes during training: choose a batch size",
    "average_tokens_across_devices": "a step's loss is always divided by the scored turns of all processes",
    "batch_eval_metrics": _NO_LOOP,
    "bf16_full_eval": "evaluations run in the precision of the model: load it in bfloat16",
    "dataloader_drop_last": "lanes continue across epochs, so no batch is incomplete",
    "dataloader_in_order": _LANES,
    "deepspeed": "shards a model in ways that do not support the lanes' states: use fsdp",
    "do_predict": "use `evaluate_conversations` to predict the turns of any split, and its report",
    "enable_jit_checkpoint": "a signal always saves a checkpoint and ends the training",
    "eval_accumulation_steps": _NO_LOOP,
    "eval_do_concat_batches": _NO_LOOP,
    "eval_use_gather_object": _NO_LOOP,
    "fp16": "its loss scaling overflows at first, which would count as skipped steps: use bf16",
    "fp16_full_eval": "evaluations run in the precision of the model: load it in float16",
    "hub_always_push": _PUBLISH,
    "hub_model_id": _PUBLISH,
    "hub_revision": _PUBLISH,
    "hub_strategy": _PUBLISH,
    "hub_token": _PUBLISH,
    "ignore_data_skip": "would resume with other turns than the remaining ones",
    "include_for_metrics": _NO_LOOP,
    "length_column_name": _LANES,
    "liger_kernel_config": "Liger has no kernels for hosts with memory",
    "parallelism_config": "splits turns or blocks among processes, which the memory does not support: use fsdp",
    "prediction_loss_only": _NO_LOOP,
    "push_to_hub": _PUBLISH,
    "resume_from_checkpoint": "is an argument of train(), and the option --resume of the command",
    "save_only_model": "would write checkpoints that cannot be resumed",
    "train_sampling_strategy": _LANES,
    "use_liger_kernel": "Liger has no kernels for hosts with memory",
}

# Arguments of Trainer that are rejected, with the reason.
REJECTED_ARGUMENTS = {
    "compute_metrics": "evaluations write a report: `EvaluationReport.load(folder).predictions` has every turn",
    "data_collator": "batches are windows of conversations, together with the lanes that they continue",
    "preprocess_logits_for_metrics": "evaluations write a report, and no metrics are computed from logits",
}

# Metrics of evaluations during training; their names begin with "eval_" and the name of the evaluation set, if
# several.
METRICS = ("ua", "wa", "ua_memory_off", "ccc", "ccc_memory_off")
LABEL_NAMES = ["emotion_labels"]


def check_options(arguments: TrainingArguments) -> None:
    """Check options before anything is set up.

    Raises:
        ValueError: naming the option, its value and the reason.
    """
    for option in fields(TrainingArguments):
        value, default = getattr(arguments, option.name), default_of(option)
        if value == default:
            continue
        if option.name in REJECTED:
            raise ValueError(f"{option.name}={value!r} is not supported: {REJECTED[option.name]}.")
        if option.name not in HONOURED:
            raise ValueError(f"{option.name}={value!r} is not supported: this option of transformers is unknown here.")
    _check_values(arguments)


def default_of(option: Field) -> Any:
    """The default of an option."""
    return option.default_factory() if option.default_factory is not MISSING else option.default


def _check_values(arguments: TrainingArguments) -> None:
    """Check the values of supported options."""
    if arguments.label_names not in (None, LABEL_NAMES):
        raise ValueError(f"label_names={arguments.label_names!r} is not supported: the labels are {LABEL_NAMES}.")
    if arguments.optim in ("lomo", "adalomo"):
        raise ValueError(
            f"optim={arguments.optim!r} is not supported: it updates weights during the backward pass, before "
            "gradients are checked."
        )
    if not 0 <= arguments.label_smoothing_factor < 1:
        raise ValueError(
            f"label_smoothing_factor must be at least 0 and below 1, got {arguments.label_smoothing_factor}."
        )
    if arguments.save_total_limit == 1:
        raise ValueError("save_total_limit=1 keeps no second checkpoint in case one is corrupted: use 2 or more.")
    if "tpu_metrics_debug" in (arguments.debug or ()):
        raise ValueError(f"debug={arguments.debug!r} is not supported: it {_NO_LOOP}.")
    if not is_known_metric(arguments.metric_for_best_model):
        raise ValueError(
            f"metric_for_best_model must end with one of {METRICS}, got {arguments.metric_for_best_model!r}."
        )
    if arguments.dataloader_persistent_workers and not arguments.dataloader_num_workers:
        raise ValueError("dataloader_persistent_workers needs dataloader_num_workers of at least 1, got 0.")


def is_known_metric(name: str | None) -> bool:
    """Whether evaluations during training have this metric, with or without "eval_" and the name of a set."""
    return name is None or any(name == metric or name.endswith(f"_{metric}") for metric in METRICS)


def check_accelerator_config(config: AcceleratorConfig) -> None:
    """Check accelerate's options for data loaders, since each process has its own loader for its lanes.

    Raises:
        ValueError: naming the fields.
    """
    plain, supported = vars(AcceleratorConfig()), ("gradient_accumulation_kwargs", "use_configured_state")
    changed = [name for name, value in vars(config).items() if name not in supported and value != plain[name]]
    if changed:
        raise ValueError(
            f"accelerator_config with {changed} is not supported: each process makes the batches of its lanes."
        )


def check_trainer_arguments(given: Collection[str]) -> None:
    """Check arguments of `transformers.Trainer`.

    Raises:
        ValueError: naming the argument and the reason.
    """
    for name in given:
        if name in REJECTED_ARGUMENTS:
            raise ValueError(f"{name} is not supported: {REJECTED_ARGUMENTS[name]}.")


def wants_best_metric(arguments: TrainingArguments) -> bool:
    """Whether evaluations choose checkpoints or the learning rate, so that a metric is needed."""
    by_metric = arguments.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    return arguments.load_best_model_at_end or by_metric or arguments.save_strategy == "best"


def check_own_loss(args: ConversationTrainingArguments) -> None:
    """Check that a `compute_loss_func` is not combined with options of the loss that it replaces."""
    options = {
        "class_weights": args.class_weights != "none",
        "soft_labels": args.soft_labels,
        "label_smoothing_factor": args.label_smoothing_factor != 0,
    }
    if given := [name for name, is_given in options.items() if is_given]:
        raise ValueError(f"compute_loss_func replaces the loss, so {given} would have no effect.")
