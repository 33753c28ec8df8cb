"""Which options of transformers' Trainer a training of conversations heeds, and why it refuses the others.

Every field of `TrainingArguments` is in one of the two tables, as `tests/titans_mal/training/test_options.py` demands.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig


# What Trainer does with them holds here as well, or `ConversationTrainer` does the same.
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
    "hub_private_repo",  # that of trackio
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

_NO_LOOP = "is of Trainer's loop of evaluation, and whole conversations are evaluated otherwise here"
_LANES = "the order of turns is that of their conversations, which lanes follow"
_PUBLISH = "a training does not publish: `titans-mal publish` does, from the folder of the trained model"
# Refused with any value but their default.
REFUSED = {
    "auto_find_batch_size": "would change the number of lanes on the way: choose a batch size",
    "average_tokens_across_devices": "a step's loss is always divided by the scored turns of all processes",
    "batch_eval_metrics": _NO_LOOP,
    "bf16_full_eval": "evaluations run in the precision of the model: load it in bfloat16",
    "dataloader_drop_last": "lanes go on from epoch to epoch, so that no batch is incomplete",
    "dataloader_in_order": _LANES,
    "deepspeed": "shares a model in ways that the lanes' states do not know: use fsdp",
    "do_predict": "`evaluate_conversations` predicts the turns of any split, and keeps them in its report",
    "enable_jit_checkpoint": "a signal saves a checkpoint and ends the training here in any case",
    "eval_accumulation_steps": _NO_LOOP,
    "eval_do_concat_batches": _NO_LOOP,
    "eval_use_gather_object": _NO_LOOP,
    "fp16": "scales the loss until it overflows, which is counted as a skipped step here: use bf16",
    "fp16_full_eval": "evaluations run in the precision of the model: load it in float16",
    "hub_always_push": _PUBLISH,
    "hub_model_id": _PUBLISH,
    "hub_revision": _PUBLISH,
    "hub_strategy": _PUBLISH,
    "hub_token": _PUBLISH,
    "ignore_data_skip": "would go on with other turns than those that were left",
    "include_for_metrics": _NO_LOOP,
    "length_column_name": _LANES,
    "liger_kernel_config": "Liger has no kernels for hosts with memory",
    "parallelism_config": "splits turns or blocks among processes, which the memory does not: use fsdp",
    "prediction_loss_only": _NO_LOOP,
    "push_to_hub": _PUBLISH,
    "resume_from_checkpoint": "is an argument of train(), and --resume of the command",
    "save_only_model": "leaves checkpoints that no training can go on from",
    "train_sampling_strategy": _LANES,
    "use_liger_kernel": "Liger has no kernels for hosts with memory",
}

# What Trainer would do with arguments of its own that whole conversations leave no place for.
REFUSED_ARGUMENTS = {
    "compute_metrics": "evaluations write a report: `EvaluationReport.load(folder).predictions` has every turn",
    "data_collator": "batches are windows of conversations, with the lanes that they continue",
    "preprocess_logits_for_metrics": "evaluations write a report, and no metrics are computed of logits",
}

# What the names of evaluations' metrics end with, after "eval_" and the name of one of several evaluation sets.
METRICS = ("ua", "wa", "ua_reads_off", "ccc", "ccc_reads_off")
LABEL_NAMES = ["emotion_labels"]


def check_options(arguments: TrainingArguments) -> None:
    """Refuse options that would be passed over, before anything is set up.

    Raises:
        ValueError: naming the option, its value and the reason.
    """
    for option in fields(TrainingArguments):
        value, default = getattr(arguments, option.name), _default(option)
        if value == default:
            continue
        if option.name in REFUSED:
            raise ValueError(f"{option.name}={value!r} is refused: {REFUSED[option.name]}.")
        if option.name not in HONOURED:
            raise ValueError(f"{option.name}={value!r} is refused: this option of transformers is not known here.")
    _check_values(arguments)


def _default(option: Field) -> Any:
    return option.default_factory() if option.default_factory is not MISSING else option.default


def _check_values(arguments: TrainingArguments) -> None:
    """Refuse single values of options that are heeded otherwise."""
    if arguments.label_names not in (None, LABEL_NAMES):
        raise ValueError(f"label_names={arguments.label_names!r} is refused: the labels are {LABEL_NAMES}.")
    if arguments.optim in ("lomo", "adalomo"):
        raise ValueError(f"optim={arguments.optim!r} is refused: it steps during the backward pass, unchecked.")
    if not 0 <= arguments.label_smoothing_factor < 1:
        raise ValueError(
            f"label_smoothing_factor must be at least 0 and below 1, got {arguments.label_smoothing_factor}."
        )
    if arguments.save_total_limit == 1:
        raise ValueError("save_total_limit=1 leaves no other checkpoint where one is corrupted: use 2 or more.")
    if "tpu_metrics_debug" in (arguments.debug or ()):
        raise ValueError(f"debug={arguments.debug!r} is refused: metrics of a TPU are {_NO_LOOP.removeprefix('is ')}.")
    if not is_known_metric(arguments.metric_for_best_model):
        raise ValueError(
            f"metric_for_best_model must end with one of {METRICS}, got {arguments.metric_for_best_model!r}."
        )
    if arguments.dataloader_persistent_workers and not arguments.dataloader_num_workers:
        raise ValueError("dataloader_persistent_workers needs dataloader_num_workers of at least 1, got 0.")


def is_known_metric(name: str | None) -> bool:
    """Whether evaluations on the way give this metric, with or without "eval_" and the name of an evaluation set."""
    return name is None or any(name == metric or name.endswith(f"_{metric}") for metric in METRICS)


def check_accelerator_config(config: AcceleratorConfig) -> None:
    """Refuse what accelerate would do to a loader, which each process has for its own lanes.

    Raises:
        ValueError: naming the fields.
    """
    plain, heeded = vars(AcceleratorConfig()), ("gradient_accumulation_kwargs", "use_configured_state")
    changed = [name for name, value in vars(config).items() if name not in heeded and value != plain[name]]
    if changed:
        raise ValueError(f"accelerator_config with {changed} is refused: each process makes the batches of its lanes.")


def check_trainer_arguments(given: Collection[str]) -> None:
    """Refuse arguments of `transformers.Trainer` that would be passed over.

    Raises:
        ValueError: naming the argument and the reason.
    """
    for name in given:
        if name in REFUSED_ARGUMENTS:
            raise ValueError(f"{name} is refused: {REFUSED_ARGUMENTS[name]}.")


def wants_best_metric(arguments: TrainingArguments) -> bool:
    """Whether evaluations choose checkpoints or the learning rate, so that one of their metrics must be named."""
    by_metric = arguments.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    return arguments.load_best_model_at_end or by_metric or arguments.save_strategy == "best"
