"""Granite Speech with conversational memory."""

from __future__ import annotations

from transformers import GraniteSpeechConfig, GraniteSpeechForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class GraniteSpeechMALConfig(AudioEmotionConfigMixin, GraniteSpeechConfig):
    """`GraniteSpeechConfig` with a memory and an emotion readout."""

    model_type = "granite_speech_mal"


class GraniteSpeechMALForAudioEmotion(AudioEmotionMixin, GraniteSpeechForConditionalGeneration):
    """`GraniteSpeechForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = GraniteSpeechMALConfig
    has_window = False
    prompt_is_text = True
