"""Qwen2-Audio with conversational memory."""

from __future__ import annotations

from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class Qwen2AudioMALConfig(AudioEmotionConfigMixin, Qwen2AudioConfig):
    """`Qwen2AudioConfig` with a memory and an emotion readout."""

    model_type = "qwen2_audio_mal"


class Qwen2AudioMALForAudioEmotion(AudioEmotionMixin, Qwen2AudioForConditionalGeneration):
    """`Qwen2AudioForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Qwen2AudioMALConfig
    row_wise_tower = "audio_tower"
    accepts_loss_kwargs = False  # the host accepts num_items_in_batch but ignores it in its loss
