"""Hosts of released sizes: their configurations, and a turn of noise for each."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from unittest import mock

import torch
import typer
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

import titans_mal


PROMPT_TOKENS = 20

# Sizes of releases that are set in the default configuration of transformers: (host, fields).
RELEASES: dict[str, tuple[str, dict]] = {
    "Voxtral-Mini-3B": ("Voxtral", {"audio_token_id": 24}),
    "GLM-ASR-Nano": ("GlmAsr", {}),
    "Qwen3-ASR-1.7B": ("Qwen3ASR", {"audio_config": {"output_dim": 2048}}),
    "Granite-Speech-3.3-2B": (
        "GraniteSpeech",
        {
            "audio_token_index": 49159,
            "has_lora_adapter": False,
            "text_config": {
                "vocab_size": 49160,
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 40,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
            },
            "encoder_config": {"num_layers": 16, "output_dim": 256},
            "projector_config": {
                "hidden_size": 1024,
                "encoder_hidden_size": 1024,
                "num_hidden_layers": 2,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
                "cross_attention_frequency": 1,
            },
        },
    ),
    "Qwen2.5-Omni-3B": (
        "Qwen2_5Omni",
        {
            "text_config": {
                "vocab_size": 151936,
                "hidden_size": 2048,
                "intermediate_size": 11008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
            },
            "audio_config": {"output_dim": 2048},
            "vision_config": {"out_hidden_size": 2048, "hidden_size": 1280},
        },
    ),
    "Gemma-3n-E2B": (
        "Gemma3n",
        {
            "text_config": {
                "num_hidden_layers": 30,
                "intermediate_size": 8192,
                "num_kv_shared_layers": 10,
                "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
                "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 6,
            }
        },
    ),
}


# For each host, `(config, seconds) -> (inputs of its audio tower, number of audio tokens)` of a turn of noise.


def halved_twice(frames: int) -> int:
    """Tokens of a tower that convolves with stride 2 and pools by 2, as Whisper's in Qwen2-Audio."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def of_whole_window(mask_name: str, tokens: Callable[[int], int]):
    """Features of one window of the tower, with a mask of what is audio."""

    def turn(config, seconds: float) -> tuple[dict[str, Tensor], int]:
        audio = config.audio_config
        window = 2 * (getattr(audio, "max_source_positions", None) or audio.max_position_embeddings)
        frames = min(window, round(100 * seconds))
        mask = (torch.arange(window) < frames).long()[None]
        return {"input_features": torch.randn(1, audio.num_mel_bins, window), mask_name: mask}, tokens(frames)

    return turn


def qwen2_5_omni(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = round(100 * seconds)
    features = torch.randn(1, config.audio_config.num_mel_bins, frames)
    mask = torch.ones(1, frames, dtype=torch.long)
    return {"input_features": features, "feature_attention_mask": mask}, halved_twice(frames)


def qwen3_asr(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = 100 * math.ceil(seconds)
    features = torch.randn(1, config.audio_config.num_mel_bins, frames)
    mask = torch.ones(1, frames, dtype=torch.long)
    return {"input_features": features, "input_features_mask": mask}, 13 * math.ceil(seconds)


def voxtral(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    audio = config.audio_config
    features = torch.randn(1, audio.num_mel_bins, 2 * audio.max_source_positions)
    return {"input_features": features}, audio.max_source_positions * audio.hidden_size // audio.intermediate_size


def granite_speech(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = round(50 * seconds)
    tokens = 3 * math.ceil(frames / 15)
    features = torch.randn(1, frames, config.encoder_config.input_dim)
    return {"input_features": features, "input_features_mask": torch.ones(1, tokens, dtype=torch.bool)}, tokens


def gemma3n(config, seconds: float) -> tuple[dict[str, Tensor], int]:
    frames = round(100 * seconds)
    features = torch.randn(1, frames, config.audio_config.input_feat_size)
    mask = torch.ones(1, frames, dtype=torch.bool)
    return {"input_features": features, "input_features_mask": mask}, config.audio_soft_tokens_per_image


TURNS = {
    "Qwen2Audio": of_whole_window("feature_attention_mask", halved_twice),
    "Qwen2_5Omni": qwen2_5_omni,
    "Qwen3ASR": qwen3_asr,
    "Voxtral": voxtral,
    "GlmAsr": of_whole_window("input_features_mask", lambda frames: ((frames - 1) // 2 + 1 - 4) // 4 + 1),
    "GraniteSpeech": granite_speech,
    "Gemma3n": gemma3n,
}


def turn_of(model, host: str, seconds: float) -> dict[str, Tensor]:
    """Inputs of a turn of noise."""
    torch.manual_seed(0)
    audio, tokens = TURNS[host](model.config, seconds)
    words = torch.randint(20, 90, (1, PROMPT_TOKENS))
    words[words == model.audio_token_id] = 19  # not one placeholder more than the tower has outputs
    placeholders = torch.full((1, tokens), model.audio_token_id)
    ids = torch.cat([words[:, :5], placeholders, words[:, 5:]], dim=1)
    audio = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in audio.items()}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **audio}


def configuration(host: str, config: str, release: str) -> tuple[str, PreTrainedConfig]:
    """The host and the configuration that the options name."""
    fields: dict = {}
    if release:
        if release not in RELEASES:
            raise typer.BadParameter(f"--release must be one of {list(RELEASES)}, got {release!r}.")
        host, fields = RELEASES[release]
    if host not in TURNS:
        raise typer.BadParameter(f"--host must be one of {list(TURNS)}, got {host!r}.")
    config_class = getattr(titans_mal, f"{host}MALConfig")
    native = AutoConfig.from_pretrained(config) if config else config_class.host_class()()
    own = config_class.fields_of_host(native)
    own |= {
        name: {**dict_of(own.get(name)), **value} if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return host, config_class.host_class()(**own)


def dict_of(config) -> dict:
    """The fields of a part of a configuration that do not follow from others."""
    fields = config if isinstance(config, dict) else {} if config is None else config.to_dict()
    return {name: value for name, value in fields.items() if name not in ("layer_types", "head_dim")}


@contextlib.contextmanager
def without_vision(host: str) -> Iterator[None]:
    """Gemma 3n's vision tower comes from another package, timm; without it there is none."""
    if host != "Gemma3n" or importlib.util.find_spec("timm") is not None:
        yield
        return
    from transformers.models.gemma3n import modeling_gemma3n

    build = modeling_gemma3n.AutoModel.from_config

    def from_config(config, **kwargs):
        return torch.nn.Identity() if config.model_type == "gemma3n_vision" else build(config, **kwargs)

    print("Without timm there is no vision tower.")
    with mock.patch.object(modeling_gemma3n.AutoModel, "from_config", from_config):
        yield
