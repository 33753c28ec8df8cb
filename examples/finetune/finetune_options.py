"""The options of `finetune.py`; the rest are those of `TrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from titans_mal.training import ConversationTrainingArguments


# Where they are not those of transformers.
DEFAULTS = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "eval_strategy": "epoch",
    "save_steps": 200,
    "save_total_limit": 3,
    "logging_steps": 10,
    "report_to": "none",
    "seed": 0,
}


@dataclass
class ModelOptions:
    """What is trained."""

    base_model: str = field(metadata={"help": "A host, or a model with memory; a folder or a Hub repo."})
    base_revision: str | None = field(default=None, metadata={"help": "Commit of the base model."})
    memory_layers: list[int] | None = field(default=None, metadata={"help": "Blocks that get a fresh memory."})
    memory: str = field(default="{}", metadata={"help": "Other fields of TitansMemoryConfig, as JSON."})
    lora_r: int | None = field(default=None, metadata={"help": "Rank of a LoRA on the language model."})
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Its scale times its rank; default: twice the rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Of the LoRA's inputs."})
    lora_audio_tower: bool = field(default=False, metadata={"help": "A LoRA on the audio tower too."})
    dtype: str = field(default="auto", metadata={"help": "Of the host: auto, float32, bfloat16."})


@dataclass
class DataOptions:
    """What it is trained on."""

    dataset: str = field(metadata={"help": "A corpus, a folder with metadata.csv, or a Hub dataset."})
    data_dir: str | None = field(default=None, metadata={"help": "Where your copy of a corpus lies."})
    label_set: str | None = field(
        default=None,
        metadata={"help": "Of the corpus (4-class), labels (sad,happy), or a mapping (excited=happy,sad=sad)."},
    )
    fold: int | None = field(default=None, metadata={"help": "The fold that is tested."})
    split_by: str | None = field(
        default=None,
        metadata={"help": "Draw splits of data that has none: by conversation, or by speaker, none in two of them."},
    )
    test_share: float | None = field(default=None, metadata={"help": "Of the turns, for split_by."})
    split_seed: int = field(default=0, metadata={"help": "Of split_by."})
    validation_share: float | None = field(
        default=None,
        metadata={"help": "Of the training, for evaluations on the way. Default: the dev split, or 0.1."},
    )


@dataclass
class RunOptions:
    """How it is run."""

    processes: int = field(
        default=0, metadata={"help": "How many processes must be there; 0: as many as were launched."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint that is whole."})


def parse_options() -> tuple[ModelOptions, DataOptions, RunOptions, ConversationTrainingArguments]:
    """What the command line says."""
    parser = HfArgumentParser((ModelOptions, DataOptions, RunOptions, ConversationTrainingArguments))
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args_into_dataclasses()
