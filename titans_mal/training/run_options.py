"""The options of a training from the command line; the rest are those of `ConversationTrainingArguments`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from transformers import HfArgumentParser, PreTrainedConfig

from ..modeling.configuration_titans_mal import DEFAULT_EMOTION_PROMPT, TRANSCRIPT, TitansMemoryConfig
from ..modeling.json_text import parse_json
from .arguments import ConversationTrainingArguments


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
    with_transcript: bool = field(
        default=False, metadata={"help": "Put what is said in a turn into its prompt; the data needs transcripts."}
    )
    emotion_prompt: str | None = field(
        default=None, metadata={"help": "What is asked after the audio; {labels} and {transcript} are filled in."}
    )
    lora_r: int | None = field(default=None, metadata={"help": "Rank of a LoRA on the language model."})
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Its scale times its rank; default: twice the rank."}
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Of the LoRA's inputs."})
    lora_audio_tower: bool = field(default=False, metadata={"help": "A LoRA on the audio tower too."})
    dtype: str = field(default="auto", metadata={"help": "Of the host: auto, float32, bfloat16."})

    def __post_init__(self):
        if self.memory_fields and not self.memory_layers:
            raise ValueError("memory needs memory_layers: a model that has a memory keeps it as it is.")
        if (self.emotion_prompt is not None or self.with_transcript) and not self.memory_layers:
            raise ValueError("A prompt needs memory_layers: a model that has a memory keeps the prompt it was given.")
        if self.emotion_prompt is not None and self.with_transcript:
            raise ValueError("with_transcript has its own prompt: write {transcript} into emotion_prompt instead.")

    @property
    def prompt(self) -> str:
        """What a model with a fresh memory asks after the audio."""
        if self.with_transcript:
            return f'The speaker says: "{TRANSCRIPT}" {DEFAULT_EMOTION_PROMPT}'
        return DEFAULT_EMOTION_PROMPT if self.emotion_prompt is None else self.emotion_prompt

    @property
    def memory_fields(self) -> dict:
        """What `memory` says.

        Raises:
            ValueError: if it is no JSON object of fields of `TitansMemoryConfig`.
        """
        names = ({own.name for own in fields(config)} for config in (TitansMemoryConfig, PreTrainedConfig))
        allowed = next(names) - next(names) - {"layers", "weights_fingerprint"}
        try:
            given = parse_json(self.memory, "memory")
        except ValueError as error:
            raise ValueError(
                f'memory must be JSON such as {{"depth": 2}}, got {self.memory[:100]!r}: {error}'
            ) from None
        wrong = sorted({*given} - allowed) if isinstance(given, dict) else given
        if not isinstance(given, dict) or wrong:
            raise ValueError(f"memory must be a JSON object with fields of {sorted(allowed)}, got {wrong!r}.")
        return given


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
    emobox: str | None = field(default=None, metadata={"help": "A clone of EmoBox, whose fold gives the splits."})
    split_longer_than: float | None = field(
        default=None, metadata={"help": "Seconds: a longer file becomes several turns, cut at its pauses."}
    )
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
    calibrate: bool = field(
        default=False, metadata={"help": "Fit the temperature of the probabilities on the validation split."}
    )


Options = tuple[ModelOptions, DataOptions, RunOptions, ConversationTrainingArguments]


def parse_options(given: Sequence[str] | None = None, *, program: str | None = None) -> Options:
    """What a command line says.

    Args:
        given: its words; None: those that Python was started with.
        program: how the command is called in its help; None: as Python was started.

    Raises:
        ValueError: for values that are not allowed. Words that are no options end the process with status 2, as
            argparse does.
    """
    usage = "%(prog)s --base-model MODEL --memory-layers N ... --dataset DATA --output-dir FOLDER [options; --help]"
    kinds = (ModelOptions, DataOptions, RunOptions, ConversationTrainingArguments)
    # transformers describes dataclasses by types of its own, which none of them is.
    parser = HfArgumentParser(kinds, prog=program, usage=usage)  # type: ignore[arg-type]
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args_into_dataclasses(given)  # type: ignore[return-value]
