"""Qwen2.5-Omni (its thinker) with conversational memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class Qwen2_5OmniMALConfig(AudioEmotionConfigMixin, Qwen2_5OmniThinkerConfig):
    """`Qwen2_5OmniThinkerConfig` with a memory and an emotion readout."""

    model_type = "qwen2_5_omni_mal"
    part_of: ClassVar[dict[str, str]] = {"qwen2_5_omni": "thinker_config"}


class Qwen2_5OmniMALForAudioEmotion(AudioEmotionMixin, Qwen2_5OmniThinkerForConditionalGeneration):
    """`Qwen2_5OmniThinkerForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Qwen2_5OmniMALConfig
