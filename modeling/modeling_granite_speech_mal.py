"""Granite Speech with conversational memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from transformers import GraniteSpeechConfig, GraniteSpeechForConditionalGeneration
from transformers.utils import is_peft_available

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin
from .turns_by_length import run_by_length


class GraniteSpeechMALConfig(AudioEmotionConfigMixin, GraniteSpeechConfig):
    """`GraniteSpeechConfig` with a memory and an emotion readout."""

    model_type = "granite_speech_mal"


class GraniteSpeechMALForAudioEmotion(AudioEmotionMixin, GraniteSpeechForConditionalGeneration):
    """`GraniteSpeechForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = GraniteSpeechMALConfig
    accepts_loss_kwargs = False  # the host accepts num_items_in_batch but ignores it in its loss
    has_window = False
    tower_mixes_padding = True
    mixing_tower = "encoder"
    prompt_is_text = True

    def __init__(self, config: GraniteSpeechMALConfig, *args, **kwargs):
        if config.has_lora_adapter and not is_peft_available():
            raise ImportError("This Granite Speech uses a LoRA for audio, which needs PEFT: pip install peft")
        super().__init__(config, *args, **kwargs)

    @staticmethod
    def run_mixing_tower(tower: nn.Module, forward: Callable, features: Tensor, **kwargs):
        """The inputs have no mask of frames; those behind the end of a turn are 0 in all bins, as no others are."""
        is_audio = (features != 0).any(-1)
        lengths = is_audio.flip(-1).cummax(-1).values.sum(-1)
        output = run_by_length(lambda rows, length: forward(features[rows, :length], **kwargs), lengths)
        # The projector cuts its windows out of as many frames as the mask of the tokens counts.
        missing = features.shape[1] - output.last_hidden_state.shape[1]
        output.last_hidden_state = nn.functional.pad(output.last_hidden_state, (0, 0, 0, missing))
        return output

    def generate(self, *args, **kwargs):
        """As `AudioEmotionMixin.generate`; re-enables the LoRA, which the host disables for text-only inputs."""
        try:
            return super().generate(*args, **kwargs)
        finally:
            if self._hf_peft_config_loaded:
                self.enable_adapters()
