"""Configuration of the memory, and the fields that a host's configuration gains."""

from __future__ import annotations

import copy
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .emotion_dimensions import check_dimensions
from .emotion_transitions import check_transitions
from .host_types import HostConfig
from .label_words import are_label_tokens
from .neural_memory import READ_ORDERS, STEP_BOUNDS, STEP_RULES


SCOPES = ("conversation", "speaker")
FEATURE_MAPS = ("identity", "quadratic")
READOUTS = ("verbalizer", "linear", "audio")
ADAPTER_DTYPES = ("float32", "bfloat16")

# Upper bounds that no useful memory exceeds, and that keep a wrong value from exhausting the machine.
_MOST = {
    "num_heads": 1024,
    "head_dim": 8192,
    "depth": 64,
    "expansion": 64,
    "chunk_size": 1 << 20,
    "max_speakers": 4096,
    "voice_key_dim": 8192,
    "voice_emotions": 4096,
}
_WRITTEN_ALONG = ("transformers_version", "_name_or_path", "_commit_hash", "attn_implementation", "torch_dtype")

# Placeholder for the transcript of a turn in a prompt.
TRANSCRIPT = "{transcript}"
DEFAULT_EMOTION_PROMPT = "Which emotion does the speaker express? Answer with one word out of: {labels}."


# Defaults of the first version, which saved configurations without these fields have.
FIRST_DEFAULTS = {"head_dim": 64, "step_bound": "token", "feature_map": "identity"}


def with_first_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a saved memory configuration, complete; others, which name no model type, as given."""
    return {**FIRST_DEFAULTS, **fields} if "model_type" in fields else dict(fields)


class TitansMemoryConfig(PreTrainedConfig):
    """Configuration of the memory layers; checked on construction, before any weights are loaded.

    Args:
        layers: decoder blocks that get a memory layer, counted from 0, strictly increasing.
        num_heads: memories per layer, each with its own keys and values.
        head_dim: width of keys, queries and values of a head; the quadratic features need narrow ones.
        depth: matrices of the memory MLP (arXiv 2501.00663, section 3.1); 1 is a linear memory, which separates
            voices better on the suites of examples/evidence, at half the cost.
        expansion: hidden width of the MLP relative to `head_dim`; no effect at depth 1.
        chunk_size: number of audio tokens whose gradients are taken at the same weights; 1 is the paper's recurrence.
        read: "history": a turn reads what earlier turns wrote. "chunk": it also reads earlier chunks of its own turn.
        step_rule: "normalized" (bounded by the local curvature) or "paper" (the plain equation).
        step_bound: the bound of the curvature that divides the normalized step: by the largest "token" of a chunk, or
            by the "gram" matrix of all its keys, which allows larger steps where keys differ. None: "gram" for a
            normalized step at depth 1, else "token".
        feature_map: of queries and keys: "identity", or "quadratic": all monomials of degree 2, so that similarities
            are squared, which separates voices better (examples/evidence); the first matrix is then (head_dim + 1) / 2
            times as large. None: "quadratic" at depth 1, where it was tried, else "identity".
        scope: one memory per "conversation", or one per "speaker" in it.
        max_speakers: memories per conversation for scope "speaker".
        forget_half_life: number of audio tokens, above 1, after which an untrained memory has forgotten half
            (Qwen2-Audio has 25 tokens per second).
        initial_momentum: eta of an untrained memory, in (0, 1).
        initial_step: theta of an untrained memory, in (0, 1).
        voice_layers: the subset of `layers` that holds a voice memory (`VoiceMemoryLayer`) instead of a
            `TitansMemoryLayer`. It uses the fields `voice_*`, `scope` and `max_speakers`.
        voice_key_dim: width of the key that distinguishes speakers, before the quadratic features.
        voice_key_offset: constant added to the similarity of two voices; at 0, opposite voices count as similar.
        voice_step: theta, in (0, 1): the share of a turn that is written.
        voice_shrinkage: weight of the average voice, in turns, above 0: little evidence of a speaker's voice means
            that only part of it is subtracted.
        voice_emotions: number of emotions whose own effect on the voice is excluded from what is written; 1 = none.
            A model's configuration replaces 1 by its number of labels.
        weights_fingerprint: of the saved memory weights, set by `save_pretrained`; saved conversation states refer
            to it.

    Raises:
        ValueError: for an invalid value, naming the field and the allowed values.
    """

    model_type = "titans_memory"

    layers: list[int] | tuple[int, ...] = (0,)
    num_heads: int = 4
    head_dim: int = 16
    depth: int = 1
    expansion: int = 1
    chunk_size: int = 64
    read: str = "history"
    step_rule: str = "normalized"
    step_bound: str | None = None
    feature_map: str | None = None
    scope: str = "conversation"
    max_speakers: int = 8
    forget_half_life: float = 2000.0
    initial_momentum: float = 0.5
    initial_step: float = 0.5
    voice_layers: list[int] | tuple[int, ...] = ()
    voice_key_dim: int = 12
    voice_key_offset: float = 0.5
    voice_step: float = 0.1
    voice_shrinkage: float = 1.0
    voice_emotions: int = 1
    weights_fingerprint: str | None = None

    def __post_init__(self, **kwargs):
        # Accept the fields that transformers itself writes into a configuration.
        unknown = sorted(key for key in kwargs if not hasattr(PreTrainedConfig, key) and key not in _WRITTEN_ALONG)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no {unknown!s:.300}; it has {sorted(type(self).__annotations__)}."
            )
        self.layers = list(self.layers) if isinstance(self.layers, list | tuple | range) else self.layers
        self.voice_layers = list(self.voice_layers) if isinstance(self.voice_layers, tuple) else self.voice_layers
        if self.step_bound is None:
            self.step_bound = "gram" if self.depth == 1 and self.step_rule == "normalized" else "token"
        if self.feature_map is None:
            self.feature_map = "quadratic" if self.depth == 1 else "identity"
        self._check()
        super().__post_init__(**kwargs)

    def _check(self) -> None:
        is_list = isinstance(self.layers, list) and len(self.layers) > 0
        if not is_list or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in self.layers):
            raise ValueError(f"layers must be a non-empty list of block numbers from 0, got {self.layers!r:.500}.")
        if any(a >= b for a, b in pairwise(self.layers)):
            raise ValueError(f"layers must be strictly increasing, got {self.layers!s:.500}.")
        voices = self.voice_layers
        if not isinstance(voices, list) or voices != [layer for layer in self.layers if layer in voices]:
            raise ValueError(
                f"voice_layers must be a list and a subset of layers={self.layers}, got {self.voice_layers!r:.500}."
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {reprlib.repr(value)}.")
            if value > most:
                raise ValueError(f"{name} must be an integer of at most {most}, got {reprlib.repr(value)}.")
        choices = {"read": READ_ORDERS, "step_rule": STEP_RULES, "step_bound": STEP_BOUNDS}
        for name, allowed in {**choices, "feature_map": FEATURE_MAPS, "scope": SCOPES}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r:.500}.")
        if self.step_rule == "paper" and self.step_bound != "token":
            raise ValueError(f"step_bound={self.step_bound!r} needs step_rule='normalized', got 'paper'.")
        above_zero = dict.fromkeys(("voice_key_offset", "voice_shrinkage"), (0, math.inf))
        shares = dict.fromkeys(("initial_momentum", "initial_step", "voice_step"), (0, 1))
        for name, (low, high) in {"forget_half_life": (1, math.inf), **above_zero, **shares}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
                raise ValueError(f"{name} must be between {low} and {high} (both excluded), got {value!r:.500}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """As of any configuration; fields that a saved one lacks have the defaults that it was saved under."""
        return super().from_dict(with_first_defaults(config_dict), **kwargs)

    @property
    def streams_per_row(self) -> int:
        """Number of memories of one conversation."""
        return self.max_speakers if self.scope == "speaker" else 1

    @property
    def key_dim(self) -> int:
        """Width of a head's queries and keys after the feature map."""
        return self.head_dim * (self.head_dim + 1) // 2 if self.feature_map == "quadratic" else self.head_dim

    def state_shapes(self, layer_idx: int, hidden_size: int) -> list[tuple[int, int, int]]:
        """(heads, d_in, d_out) of each matrix of a stream's memory at the `layer_idx`-th memory layer."""
        if self.layers[layer_idx] in self.voice_layers:
            return [(1, *shape) for shape in self.voice_matrix_shapes(hidden_size)]
        return [(self.num_heads, *shape) for shape in self.matrix_shapes()]

    def voice_matrix_shapes(self, hidden_size: int) -> list[tuple[int, int]]:
        """(d_in, d_out) of a voice memory: monomials of a key and a constant, to a voice and a constant."""
        width = self.voice_key_dim + 1
        return [(width * (width + 1) // 2, hidden_size + 1)]

    def matrix_shapes(self) -> list[tuple[int, int]]:
        """(d_in, d_out) of each matrix of one head of a `TitansMemoryLayer`."""
        widths = [self.key_dim, *[self.head_dim * self.expansion] * (self.depth - 1), self.head_dim]
        return list(pairwise(widths))


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
            invalid
            `TitansMemoryConfig`.
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
            self.memory_config.voice_emotions = len(self.labels)

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


def read_labels(config: PreTrainedConfig) -> list[str]:
    """The labels that a model predicts; empty without an `emotion_readout`."""
    return [] if config.emotion_readout is None else config.labels
