"""Audio Flamingo 3 with conversational memory."""

from __future__ import annotations

from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class AudioFlamingo3MALConfig(AudioEmotionConfigMixin, AudioFlamingo3Config):
    """`AudioFlamingo3Config` with a memory and an emotion readout."""

    model_type = "audioflamingo3_mal"


class AudioFlamingo3MALForAudioEmotion(AudioEmotionMixin, AudioFlamingo3ForConditionalGeneration):
    """`AudioFlamingo3ForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = AudioFlamingo3MALConfig
    row_wise_tower = "audio_tower"
