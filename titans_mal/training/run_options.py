"""Command-line options of a training, in addition to those of `ConversationTrainingArguments`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import HfArgumentParser, PreTrainedConfig

from ..modeling.configuration_titans_mal import DEFAULT_EMOTION_PROMPT, READOUTS, TRANSCRIPT
from ..modeling.configuration_titans_memory import TitansMemoryConfig
from ..modeling.json_text import parse_json
from .arguments import ConversationTrainingArguments
from .options import REJECTED
from .trained_parts import check_lora_options


# Defaults that differ from those of transformers.
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
    """The model to train."""

    base_model: str = field(metadata={"help": "Folder or Hub repo of a host, or of a model with memory."})
    base_revision: str | None = field(
        default=None, metadata={"help": "Commit, tag or branch of the base model. Default: main."}
    )
    memory_layers: list[int] | None = field(
        default=None, metadata={"help": "Numbers of the decoder blocks that get a new memory, counted from 0."}
    )
    memory: str = field(
        default="{}", metadata={"help": 'Other fields of TitansMemoryConfig, as JSON such as {"depth": 2}.'}
    )
    with_transcript: bool = field(
        default=False,
        metadata={"help": "Include the transcript of each turn in its prompt. The data must have transcripts."},
    )
    emotion_prompt: str | None = field(
        default=None,
        metadata={"help": "Instruction that follows the audio in the prompt. May contain {labels} and {transcript}."},
    )
    emotion_readout: str | None = field(
        default=None,
        metadata={
            "help": "How a model with a new memory predicts labels: verbalizer (by its words), linear (a head on the "
            "last position), or audio (a head on the mean of the audio tokens, where the memory acts). "
            "Default: verbalizer."
        },
    )
    label_words: str | None = field(
        default=None,
        metadata={"help": 'Words that replace labels in prompt and answer, as JSON such as {"fear": "fearful"}.'},
    )
    lora_r: int | None = field(
        default=None, metadata={"help": "Rank of a LoRA on the language model. Default: no LoRA."}
    )
    dimensions: str | None = field(
        default=None,
        metadata={
            "help": "Comma-separated dimensions to predict in addition to labels, as in valence,arousal. The data "
            "must have ratings of them."
        },
    )
    lora_alpha: float | None = field(
        default=None,
        metadata={"help": "Alpha of the LoRA, whose output is scaled by alpha / rank. Default: twice the rank."},
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the LoRA's inputs, from 0 to 1."})
    lora_audio_tower: bool = field(default=False, metadata={"help": "Also add a LoRA to the audio tower."})
    emotion_transitions: bool = field(
        default=False,
        metadata={
            "help": "Let the scores of a turn depend on the likely emotion of the turn before, with the transitions "
            "of the training split. Not in training."
        },
    )
    dtype: str = field(default="auto", metadata={"help": "Precision of the host: auto, float32 or bfloat16."})

    def __post_init__(self):
        of_a_new_memory = {
            "memory": self.memory_fields or None,
            "emotion_prompt": self.emotion_prompt,
            "with_transcript": self.with_transcript or None,
            "emotion_readout": self.emotion_readout,
            "label_words": self.words,
            "dimensions": self.dimensions,
        }
        given = [name for name, value in of_a_new_memory.items() if value is not None]
        if given and not self.memory_layers:
            raise ValueError(
                f"{', '.join(given)}: only with memory_layers, since a model that already has a memory keeps its own."
            )
        if self.emotion_readout not in (None, *READOUTS):
            raise ValueError(f"emotion_readout must be one of {READOUTS}, got {self.emotion_readout!r}.")
        # The host may have to be downloaded before they are used.
        check_lora_options(self.lora_r, self.lora_alpha, self.lora_dropout, self.lora_audio_tower)
        if self.emotion_prompt is not None and self.with_transcript:
            raise ValueError("with_transcript sets the prompt: include {transcript} in emotion_prompt instead.")

    @property
    def prompt(self) -> str:
        """The instruction after the audio for a model with a new memory."""
        if self.with_transcript:
            return f'The speaker says: "{TRANSCRIPT}" {DEFAULT_EMOTION_PROMPT}'
        return DEFAULT_EMOTION_PROMPT if self.emotion_prompt is None else self.emotion_prompt

    @property
    def dimension_names(self) -> list[str]:
        """Parse the option `dimensions`."""
        return [] if self.dimensions is None else [name.strip() for name in self.dimensions.split(",")]

    @property
    def memory_fields(self) -> dict:
        """Parse the option `memory`.

        Raises:
            ValueError: if it is not a JSON object with fields of `TitansMemoryConfig`.
        """
        names = ({own.name for own in fields(config)} for config in (TitansMemoryConfig, PreTrainedConfig))
        allowed = next(names) - next(names) - {"layers", "weights_fingerprint"}
        given = _parsed("memory", self.memory, '{"depth": 2}')
        wrong = sorted({*given} - allowed) if isinstance(given, dict) else given
        if not isinstance(given, dict) or wrong:
            raise ValueError(f"memory must be a JSON object with fields of {sorted(allowed)}, got {wrong!r}.")
        return given

    @property
    def words(self) -> dict[str, str] | None:
        """Parse the option `label_words`; whether they fit the labels is checked in the model's configuration."""
        return None if self.label_words is None else _parsed("label_words", self.label_words, '{"fear": "fearful"}')


def _parsed(name: str, text: str, example: str) -> Any:
    try:
        return parse_json(text, name)
    except ValueError as error:
        raise ValueError(f"{name} must be JSON such as {example}, got {text[:100]!r}: {error}") from None


@dataclass
class DataOptions:
    """The training data."""

    dataset: str = field(metadata={"help": "A corpus, a folder with metadata.csv, or a Hub dataset."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with your copy of the corpus."})
    label_set: str | None = field(
        default=None,
        metadata={
            "help": "Labels to use: a label set of the corpus (4-class), a list (sad,happy) or a mapping "
            "(excited=happy,sad=sad)."
        },
    )
    fold: int | None = field(
        default=None, metadata={"help": "Number of the fold that is the test split, counted from 1."}
    )
    emobox: str | None = field(
        default=None, metadata={"help": "Folder of a clone of EmoBox, which defines the splits of each fold."}
    )
    split_longer_than: float | None = field(
        default=None,
        metadata={"help": "Split every audio file longer than this many seconds into several turns, at its pauses."},
    )
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "Split data that has no splits at random: 'conversation' or 'speaker'. No conversation, or no "
            "speaker, is in two splits."
        },
    )
    test_share: float | None = field(
        default=None, metadata={"help": "With split_by: share of the turns in the test split, as in 0.2."}
    )
    split_seed: int = field(default=0, metadata={"help": "Random seed of split_by."})
    validation_share: float | None = field(
        default=None,
        metadata={
            "help": "Share of the conversations held out for evaluations during training. Default: use the dev split, "
            "or 0.1 if there is none."
        },
    )


@dataclass
class RunOptions:
    """How the training is run."""

    processes: int = field(
        default=0,
        metadata={"help": "Number of processes that must have been launched; 0 allows any number."},
    )
    resume: bool = field(default=False, metadata={"help": "Resume from the last complete checkpoint."})
    calibrate: bool = field(
        default=False, metadata={"help": "Fit the temperature of the probabilities on the validation split."}
    )


Options = tuple[ModelOptions, DataOptions, RunOptions, ConversationTrainingArguments]


def parse_options(
    given: Sequence[str] | None = None, *, program: str | None = None, description: str | None = None
) -> Options:
    """Parse the command line.

    Args:
        given: arguments of the command. Default: those of the Python process.
        program: name of the command in its help. Default: that of the Python process.
        description: what the help says before the options.

    Raises:
        ValueError: for invalid values. Unknown arguments end the process with status 2, as in argparse.
    """
    usage = "%(prog)s --base-model MODEL --memory-layers N ... --dataset DATA --output-dir FOLDER [options; --help]"
    kinds = (ModelOptions, DataOptions, RunOptions, ConversationTrainingArguments)
    # The annotation of transformers names its own dataclass types, which these classes do not match.
    parser = HfArgumentParser(kinds, prog=program, usage=usage, description=description)  # type: ignore[arg-type]
    parser.set_defaults(**DEFAULTS)
    for action in parser._actions:
        if action.dest in REJECTED:  # parsed all the same, so that the error says why
            action.help = argparse.SUPPRESS
    return parser.parse_args_into_dataclasses(given)  # type: ignore[return-value]
