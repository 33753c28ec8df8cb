"""The fields that a host's configuration gains."""

from __future__ import annotations

import copy
import math
import reprlib
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .configuration_titans_memory import TitansMemoryConfig, with_first_defaults
from .emotion_dimensions import check_dimensions
from .emotion_transitions import check_transitions
from .host_types import HostConfig
from .label_words import are_label_tokens
from .turn_rules import check_flag


READOUTS = ("verbalizer", "linear", "audio")
ADAPTER_DTYPES = ("float32", "bfloat16")
# Placeholder for the transcript of a turn in a prompt.
TRANSCRIPT = "{transcript}"
DEFAULT_EMOTION_PROMPT = "Which emotion does the speaker express? Answer with one word out of: {labels}."


@dataclass(kw_only=True)
class AudioEmotionConfigMixin(HostConfig):
    """The fields that a host's configuration gains: mix it in before the host's class, and set `model_type`.

    Args:
        memory_config: a `TitansMemoryConfig` or its dict; None takes the defaults.
        emotion_readout: "verbalizer" (label tokens through the host's output head), "linear" (a separate head on the
            last hidden state of the prompt), "audio" (a separate head on the mean, over the audio tokens, of
            the last hidden states: it reads the positions that the memory changes), or None: no labels, only
            `emotion_dimensions`.
        emotion_dimensions: continuous values predicted beside the labels by a separate linear head: names such as
            "valence", "arousal", "dominance", in the scale of the training data. It reads the mean of the audio
            tokens if `emotion_readout` is "audio", otherwise the last position.
        label_token_ids: for the verbalizer, in the order of `id2label`: one token per label, or all tokens of its
            word, if words are scored whole.
        label_words: the words for some of the labels in prompt and answer, as {"fear": "fearful"}; None: labels are
            their own words.
        emotion_prompt: the instruction after the audio; `{labels}` is replaced by the labels' words.
        emotion_temperature: above 0; divides the logits before the softmax in the pipeline, live calls and the
            server. Losses and memories do not depend on it; `emotion_logits` and the cached `beliefs` do only with
            `emotion_transitions`. `titans-mal calibrate` fits it.
        emotion_transitions: `R[i][j]` is P(label j follows label i in a conversation) / P(label j), labels in the
            order of `id2label`. The logits of a turn then depend on the likely emotion of the previous turn
            (`follow_transitions`); a first turn, and training, are unchanged. None: turns are scored without them.
            `fit_emotion_transitions` counts them.
        adapter_only: whether `save_pretrained` writes the name of the base instead of the host's weights.
        adapter_dtype: "float32", or "bfloat16" to store the linear layers of an adapter in half the bytes, rounded.
            They are float32 after loading, as states are; states of the unrounded model are rejected.
        base_model_name_or_path, base_model_revision, base_model_subfolder: the host checkpoint that the memory was
            made for.
        base_fingerprint: of the base's weights when loaded, set by `from_base`; a base in a folder is checked against
            it.
        has_lora: whether the checkpoint includes a LoRA on the host; set by loading and saving.

    Raises:
        ValueError: for an unknown readout, neither readout nor dimensions, a temperature not above 0, `id2label` not
            numbered from 0, duplicate labels or words, label tokens or words that do not match the labels, or an
            invalid `TitansMemoryConfig`.
    """

    # Trainer gathers every other field of an output.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache", "memory_cache"]
    # Larger models that contain the host: model type -> name of the host's configuration in theirs.
    part_of: ClassVar[dict[str, str]] = {}
    # Fields of configurations in the format of the host's authors, which transformers reads as defaults.
    foreign_fields: ClassVar[tuple[str, ...]] = ()

    memory_config: dict | PreTrainedConfig | None = None
    emotion_readout: str | None = "verbalizer"
    emotion_dimensions: list[str] | tuple[str, ...] = ()
    label_token_ids: list[int] | list[list[int]] | None = None
    label_words: dict[str, str] | None = None
    emotion_prompt: str = DEFAULT_EMOTION_PROMPT
    emotion_temperature: float = 1.0
    emotion_transitions: list[list[float]] | None = None
    adapter_only: bool = False
    adapter_dtype: str = "float32"
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_model_subfolder: str = ""
    base_fingerprint: str | None = None
    has_lora: bool = False

    def __post_init__(self, **kwargs):
        if not type(self).__module__.startswith("transformers_modules."):
            # Only for repos with code: here the pipeline is registered, and code of a repo must not be trusted.
            kwargs.pop("custom_pipelines", None)
        if not isinstance(self.memory_config, PreTrainedConfig):
            if not isinstance(self.memory_config, dict | None):
                got = type(self.memory_config).__name__
                raise ValueError(f"memory_config must be a TitansMemoryConfig or its dict, got {got}.")
            self.memory_config = TitansMemoryConfig(**with_first_defaults(self.memory_config or {}))
        self._check_labels()
        super().__post_init__(**kwargs)
        self.check()
        if self.memory_config.voice_layers and self.memory_config.voice_emotions == 1:
            # The given configuration may be used for another model too.
            self.memory_config = copy.copy(self.memory_config)
            self.memory_config.voice_emotions = max(1, len(self.labels))

    @property
    def has_emotion_head(self) -> bool:
        """Whether the labels have a separate head."""
        return self.emotion_readout in ("linear", "audio")

    def check(self) -> None:
        """Check fields that may have been changed since construction, and update `label2id`.

        Raises:
            ValueError: as the class.
        """
        if not isinstance(self.memory_config, TitansMemoryConfig):
            raise ValueError(f"memory_config must be a TitansMemoryConfig, got {type(self.memory_config).__name__}.")
        self.memory_config.check()
        for name in ("adapter_only", "has_lora"):
            check_flag(getattr(self, name), name)
        check_dimensions(self.emotion_dimensions)
        self.emotion_dimensions = list(self.emotion_dimensions)
        if self.emotion_readout not in (*READOUTS, None):
            raise ValueError(f"emotion_readout must be one of {READOUTS} or None, got {self.emotion_readout!r:.500}.")
        if self.emotion_readout is None and not self.emotion_dimensions:
            raise ValueError("Without an emotion_readout, emotion_dimensions must not be empty.")
        temperature = self.emotion_temperature
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise ValueError(f"emotion_temperature must be a number above 0, got {temperature!r:.500}.")
        if self.adapter_dtype not in ADAPTER_DTYPES:
            raise ValueError(f"adapter_dtype must be one of {ADAPTER_DTYPES}, got {self.adapter_dtype!r:.500}.")
        if not isinstance(self.emotion_prompt, str):
            raise ValueError(f"emotion_prompt must be text, got {reprlib.repr(self.emotion_prompt)}.")
        self._check_labels()
        if self.id2label is None or sorted(self.id2label) != list(range(len(self.id2label))):
            raise ValueError(f"id2label must number the labels 0, 1, ..., got {self.id2label!r:.500}.")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"id2label must not repeat a label, got {self.labels!s:.500}.")
        if self.emotion_transitions is not None:
            check_transitions(self.emotion_transitions, len(self.labels))
            if self.emotion_readout is None:
                raise ValueError("emotion_transitions need an emotion_readout, got None.")
        self.label2id = {label: index for index, label in self.id2label.items()}
        self._check_words()
        tokens = self.label_token_ids
        if tokens is None:
            return
        vocab_size = getattr(self.get_text_config(decoder=True), "vocab_size", None) or math.inf
        if not are_label_tokens(tokens, len(self.labels), vocab_size):
            raise ValueError(
                f"label_token_ids must hold a different token for each of {self.labels!s:.500}, or lists of tokens of "
                f"which none is the beginning of another; tokens must be below {vocab_size} (the host's vocabulary), "
                f"got {reprlib.repr(tokens)}."
            )

    def _check_words(self) -> None:
        words = self.label_words
        if words is None:
            return
        if (
            not isinstance(words, dict)
            or not {*words} <= {*self.labels}
            or not all(isinstance(word, str) and word.strip() for word in words.values())
            or len({*self.words}) != len(self.labels)
        ):
            raise ValueError(
                f"label_words must map labels out of {self.labels!s:.500} to different words, got "
                f"{reprlib.repr(words)}."
            )

    def _check_labels(self) -> None:
        """Check `id2label` before transformers uses it."""
        labels = self.id2label
        if labels is not None and (
            not isinstance(labels, dict)
            or not all(str(key).isdecimal() for key in labels)
            or not all(isinstance(label, str) and label.strip() for label in labels.values())
        ):
            raise ValueError(f"id2label must number the labels 0, 1, ..., got {reprlib.repr(labels)}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As of transformers' configurations; an `id2label` may rename the saved labels, but not reorder them.

        Raises:
            ValueError: if `id2label` gives a saved label another id: its scores would be those of another label.
        """
        saved, given = _by_text(config_dict.get("id2label")), _by_text(kwargs.get("id2label"))
        moved = [label for key, label in given.items() if label in saved.values() and saved.get(key) != label]
        if moved:
            raise ValueError(
                f"id2label gives {moved!s:.200} other ids than the saved configuration, whose labels are "
                f"{[*saved.values()]!s:.500} in this order: keep the order, or leave id2label out."
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def host_class(cls) -> type[PreTrainedConfig]:
        """The host's own configuration class."""
        return next(
            base
            for base in cls.__mro__
            if issubclass(base, PreTrainedConfig) and not issubclass(base, AudioEmotionConfigMixin)
        )

    @classmethod
    def fields_of_host(cls, native: PreTrainedConfig) -> dict:
        """The host's fields, from its own configuration or from that of a larger model that contains it.

        Raises:
            ValueError: for the configuration of another host, or one in the format of the host's authors.
        """
        foreign = [field for field in cls.foreign_fields if hasattr(native, field)]
        if foreign:
            raise ValueError(
                f"its configuration is in the format of its authors, with {foreign}: take its conversion to "
                "transformers' own format, which its model card names."
            )
        part = cls.part_of.get(native.model_type)
        host = native if part is None else getattr(native, part)
        if host.model_type != cls.host_class().model_type:
            allowed = [cls.host_class().model_type, *cls.part_of]
            raise ValueError(f"it is a {native.model_type!r} checkpoint, expected one of {allowed}.")
        return {k: v for k, v in host.to_dict().items() if k not in ("model_type", "architectures", "label2id")}

    @property
    def labels(self) -> list[str]:
        """The emotion labels in the order of their ids."""
        names = self.id2label or {}
        return [names[index] for index in sorted(names)]

    @property
    def words(self) -> list[str]:
        """The word that stands for each label in prompt and answer, in the order of their ids."""
        return [(self.label_words or {}).get(label, label) for label in self.labels]

    def prompt_text(self) -> str:
        """The instruction after the audio, with an empty transcript if the prompt includes one."""
        asked = self.emotion_prompt.replace("{labels}", ", ".join(self.words))
        return asked.replace(TRANSCRIPT, getattr(self, "_transcript", ""))

    @property
    def takes_transcript(self) -> bool:
        """Whether the prompt of a turn includes its transcript."""
        return TRANSCRIPT in self.emotion_prompt

    def of_transcript(self, transcript: str | None):
        """A copy whose `prompt_text` includes the transcript of a turn, with whitespace collapsed."""
        config = copy.copy(self)
        config._transcript = " ".join((transcript or "").split())
        return config


def _by_text(id2label: Any) -> dict[str, Any]:
    """Labels by their ids as text, as JSON has them; empty for what is no dictionary, which is checked later."""
    return {str(key): label for key, label in id2label.items()} if isinstance(id2label, dict) else {}


def read_labels(config: PreTrainedConfig) -> list[str]:
    """The labels that a model predicts; empty without an `emotion_readout`."""
    return [] if config.emotion_readout is None else config.labels
