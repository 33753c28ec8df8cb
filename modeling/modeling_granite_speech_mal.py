"""Granite Speech with conversational memory."""

from __future__ import annotations

from transformers import GraniteSpeechConfig, GraniteSpeechForConditionalGeneration
from transformers.utils import is_peft_available

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin


class GraniteSpeechMALConfig(AudioEmotionConfigMixin, GraniteSpeechConfig):
    """`GraniteSpeechConfig` with a memory and an emotion readout."""

    model_type = "granite_speech_mal"


class GraniteSpeechMALForAudioEmotion(AudioEmotionMixin, GraniteSpeechForConditionalGeneration):
    """`GraniteSpeechForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = GraniteSpeechMALConfig
    accepts_loss_kwargs = False  # the host accepts num_items_in_batch but ignores it in its loss
    has_window = False
    tower_mixes_padding = True
    prompt_is_text = True

    def __init__(self, config: GraniteSpeechMALConfig, *args, **kwargs):
        if config.has_lora_adapter and not is_peft_available():
            raise ImportError("This Granite Speech uses a LoRA for audio, which needs PEFT: pip install peft")
        super().__init__(config, *args, **kwargs)

    def generate(self, *args, **kwargs):
        """As `AudioEmotionMixin.generate`; re-enables the LoRA, which the host disables for text-only inputs."""
        try:
            return super().generate(*args, **kwargs)
        finally:
            if self._hf_peft_config_loaded:
                self.enable_adapters()
