"""Qwen3-ASR with conversational memory."""

from __future__ import annotations

from typing import ClassVar

from transformers import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin
from .turn_inputs import AUDIO_PART


class Qwen3ASRMALConfig(AudioEmotionConfigMixin, Qwen3ASRConfig):
    """`Qwen3ASRConfig` with a memory and an emotion readout."""

    model_type = "qwen3_asr_mal"
    foreign_fields: ClassVar[tuple[str, ...]] = ("thinker_config",)


class Qwen3ASRMALForAudioEmotion(AudioEmotionMixin, Qwen3ASRForConditionalGeneration):
    """`Qwen3ASRForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Qwen3ASRMALConfig
    has_window = False
    tower_mixes_padding = True

    @classmethod
    def turn_messages(cls, config, processor) -> list[dict]:
        """Its chat template accepts text in the system message only."""
        return [
            {"role": "system", "content": [{"type": "text", "text": config.prompt_text()}]},
            {"role": "user", "content": [AUDIO_PART]},
        ]
