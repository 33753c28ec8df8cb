"""Gemma 3n with conversational memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin
from .turn_inputs import filled_placeholders
from .turns_by_length import run_by_length


class Gemma3nMALConfig(AudioEmotionConfigMixin, Gemma3nConfig):
    """`Gemma3nConfig` with a memory and an emotion readout."""

    model_type = "gemma3n_mal"


class Gemma3nMALForAudioEmotion(AudioEmotionMixin, Gemma3nForConditionalGeneration):
    """`Gemma3nForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Gemma3nMALConfig
    tower_mixes_padding = True
    mixing_tower = "audio_tower"

    @staticmethod
    def run_mixing_tower(tower: nn.Module, forward: Callable, features: Tensor, is_padding: Tensor, **kwargs):
        return run_by_length(
            lambda rows, length: forward(features[rows, :length], is_padding[rows, :length], **kwargs),
            (~is_padding).sum(-1),
        )

    @property
    def hidden_states_index(self) -> int:
        return self.config.text_config.altup_active_idx

    def audio_mask(self, input_ids: Tensor, inputs: dict) -> Tensor:
        """All turns have as many placeholders as the longest; those beyond a turn's end hold a padding embedding."""
        mask, frames = super().audio_mask(input_ids, inputs), inputs.get("input_features_mask")
        if frames is None:
            return mask
        audio = self.config.audio_config
        frames_per_token = audio.conf_reduction_factor * math.prod(time for time, _ in audio.sscp_conv_stride_size)
        filled = frames[:, ::frames_per_token].sum(-1)
        return filled_placeholders(mask, self.config.audio_soft_tokens_per_image, filled)

    @classmethod
    def max_turn_seconds(cls, processor) -> float:
        return 30.0
