"""Phi-4-multimodal with conversational memory."""

from __future__ import annotations

from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class Phi4MultimodalMALConfig(AudioEmotionConfigMixin, Phi4MultimodalConfig):
    """`Phi4MultimodalConfig` with a memory and an emotion readout."""

    model_type = "phi4_multimodal_mal"


class Phi4MultimodalMALForAudioEmotion(AudioEmotionMixin, Phi4MultimodalForCausalLM):
    """`Phi4MultimodalForCausalLM` with a memory of the conversation and emotion scores."""

    config_class = Phi4MultimodalMALConfig
    has_window = False
    tower_mixes_padding = True
    prompt_is_text = True

    @property
    def audio_token_id(self) -> int:
        return self.config.audio_config.audio_token_id
