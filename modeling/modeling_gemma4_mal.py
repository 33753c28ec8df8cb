"""Gemma 4 with conversational memory."""

from __future__ import annotations

from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class Gemma4MALConfig(AudioEmotionConfigMixin, Gemma4Config):
    """`Gemma4Config` with a memory and an emotion readout."""

    model_type = "gemma4_mal"


class Gemma4MALForAudioEmotion(AudioEmotionMixin, Gemma4ForConditionalGeneration):
    """`Gemma4ForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Gemma4MALConfig

    @classmethod
    def max_turn_seconds(cls, processor) -> float:
        return processor.audio_seq_length * processor.audio_ms_per_token / 1000
