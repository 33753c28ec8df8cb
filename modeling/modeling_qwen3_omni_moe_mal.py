"""Qwen3-Omni (its thinker) with conversational memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class Qwen3OmniMoeMALConfig(AudioEmotionConfigMixin, Qwen3OmniMoeThinkerConfig):
    """`Qwen3OmniMoeThinkerConfig` with a memory and an emotion readout."""

    model_type = "qwen3_omni_moe_mal"
    part_of: ClassVar[dict[str, str]] = {"qwen3_omni_moe": "thinker_config"}


class Qwen3OmniMoeMALForAudioEmotion(AudioEmotionMixin, Qwen3OmniMoeThinkerForConditionalGeneration):
    """`Qwen3OmniMoeThinkerForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Qwen3OmniMoeMALConfig
    has_window = False
    tower_mixes_padding = True
