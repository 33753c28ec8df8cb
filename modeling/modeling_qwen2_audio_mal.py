"""Qwen2-Audio with conversational memory."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioCausalLMOutputWithPast

from .audio_emotion_mixin import AudioEmotionMixin, AudioEmotionOutput
from .configuration_titans_mal import AudioEmotionConfigMixin


class Qwen2AudioMALConfig(AudioEmotionConfigMixin, Qwen2AudioConfig):
    """`Qwen2AudioConfig` with a memory and an emotion readout."""

    model_type = "qwen2_audio_mal"


@dataclass
class Qwen2AudioMALOutput(AudioEmotionOutput, Qwen2AudioCausalLMOutputWithPast):
    """Output of `Qwen2AudioMALForAudioEmotion`."""


class Qwen2AudioMALForAudioEmotion(AudioEmotionMixin, Qwen2AudioForConditionalGeneration):
    """`Qwen2AudioForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Qwen2AudioMALConfig
    output_class = Qwen2AudioMALOutput
