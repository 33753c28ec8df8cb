"""Phi-4-multimodal with conversational memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import BatchFeature, Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin
from .turns_by_length import run_by_length


class Phi4MultimodalMALConfig(AudioEmotionConfigMixin, Phi4MultimodalConfig):
    """`Phi4MultimodalConfig` with a memory and an emotion readout."""

    model_type = "phi4_multimodal_mal"


class Phi4MultimodalMALForAudioEmotion(AudioEmotionMixin, Phi4MultimodalForCausalLM):
    """`Phi4MultimodalForCausalLM` with a memory of the conversation and emotion scores."""

    config_class = Phi4MultimodalMALConfig
    has_window = False
    tower_mixes_padding = True
    mixing_tower = "audio_embed.encoder"
    prompt_is_text = True

    @property
    def audio_token_id(self) -> int:
        return self.config.audio_config.audio_token_id

    @staticmethod
    def run_mixing_tower(tower: nn.Module, forward: Callable, features: Tensor, mask: Tensor | None = None, **kwargs):
        if mask is None:
            return forward(features, mask, **kwargs)
        return run_by_length(
            lambda rows, length: forward(features[rows, :length], mask[rows, :length], **kwargs), mask.sum(-1)
        )

    def process_turns(self, *args, **kwargs) -> BatchFeature:
        """As `TurnInputsMixin.process_turns`; the extractor gives a single turn no mask."""
        inputs = super().process_turns(*args, **kwargs)
        shape = inputs["audio_input_features"].shape[:2]
        inputs.setdefault("audio_attention_mask", torch.ones(shape, dtype=torch.bool))
        return inputs
