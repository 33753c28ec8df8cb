"""Configuration of the memory layers."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from transformers import PreTrainedConfig

from .neural_memory import READ_ORDERS, STEP_BOUNDS, STEP_RULES


SCOPES = ("conversation", "speaker")
FEATURE_MAPS = ("identity", "quadratic")

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
        voice_emotions: number of emotions whose own effect on the voice is excluded from what is written. A model's
            configuration replaces 1 by its number of labels; in a layer by itself, 1 excludes nothing.
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
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Check fields that may have been changed since construction.

        Raises:
            ValueError: as the class.
        """
        is_list = isinstance(self.layers, list) and len(self.layers) > 0
        if not is_list or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in self.layers):
            raise ValueError(f"layers must be a non-empty list of block numbers from 0, got {self.layers!r:.500}.")
        if any(a >= b for a, b in pairwise(self.layers)):
            raise ValueError(f"layers must be strictly increasing, got {self.layers!s:.500}.")
        voices = self.voice_layers
        if (
            not isinstance(voices, list)
            or any(isinstance(layer, bool) for layer in voices)
            or voices != [layer for layer in self.layers if layer in voices]
        ):
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
