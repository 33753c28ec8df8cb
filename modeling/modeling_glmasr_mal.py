"""GLM-ASR with conversational memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration
from transformers.models.glmasr.modeling_glmasr import GlmAsrCausalLMOutputWithPast

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class GlmAsrMALConfig(AudioEmotionConfigMixin, GlmAsrConfig):
    """`GlmAsrConfig` with a memory and an emotion readout."""

    model_type = "glmasr_mal"
    foreign_fields: ClassVar[tuple[str, ...]] = ("lm_config", "whisper_config")


class GlmAsrMALForAudioEmotion(AudioEmotionMixin, GlmAsrForConditionalGeneration):
    """`GlmAsrForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = GlmAsrMALConfig
    row_wise_tower = "audio_tower"
    host_output_class = GlmAsrCausalLMOutputWithPast
