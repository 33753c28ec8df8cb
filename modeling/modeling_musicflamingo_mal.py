"""Music Flamingo with conversational memory."""

from __future__ import annotations

from transformers import MusicFlamingoConfig, MusicFlamingoForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class MusicFlamingoMALConfig(AudioEmotionConfigMixin, MusicFlamingoConfig):
    """`MusicFlamingoConfig` with a memory and an emotion readout."""

    model_type = "musicflamingo_mal"


class MusicFlamingoMALForAudioEmotion(AudioEmotionMixin, MusicFlamingoForConditionalGeneration):
    """`MusicFlamingoForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = MusicFlamingoMALConfig
    row_wise_tower = "audio_tower"
