"""Voxtral with conversational memory."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from transformers import BatchFeature, VoxtralConfig, VoxtralForConditionalGeneration

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin
from .label_words import find_label_tokens
from .turn_inputs import filled_placeholders


class VoxtralMALConfig(AudioEmotionConfigMixin, VoxtralConfig):
    """`VoxtralConfig` with a memory and an emotion readout."""

    model_type = "voxtral_mal"


class VoxtralMALForAudioEmotion(AudioEmotionMixin, VoxtralForConditionalGeneration):
    """`VoxtralForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = VoxtralMALConfig
    row_wise_tower = "audio_tower"
    has_window = False

    def audio_mask(self, input_ids: Tensor, inputs: dict) -> Tensor:
        """The processor pads audio with silence to full windows of 30 s; the silence at the end is left out.

        At least two tokens are kept, as in other hosts.
        """
        mask, features = super().audio_mask(input_ids, inputs), inputs.get("input_features")
        if features is None:
            return mask
        audio = self.config.audio_config
        tokens = audio.max_source_positions * audio.hidden_size // audio.intermediate_size
        frames_per_token = features.shape[-1] // tokens
        # Silence is the floor of the log-mel spectrogram in every bin.
        is_audible = (features > features.amin((1, 2), keepdim=True)).any(1)
        before_end = is_audible.flip(-1).cummax(-1).values.flip(-1)
        return filled_placeholders(mask, tokens, before_end[:, ::frames_per_token].sum(-1).clamp(min=2))

    def process_turns(
        self,
        processor,
        waveforms: Sequence[np.ndarray],
        sampling_rate: int,
        transcripts: Sequence[str | None] | None = None,
    ) -> BatchFeature:
        """The processor accepts audio only through its chat template, as encoded files."""
        configs = self.turn_configs(processor, waveforms, transcripts)
        texts = ({"type": "text", "text": config.prompt_text()} for config in configs)
        audio = ({"type": "audio", "base64": _to_wav(waveform, sampling_rate)} for waveform in waveforms)
        return processor.apply_chat_template([[{"role": "user", "content": [*turn]}] for turn in zip(audio, texts)])

    @classmethod
    def label_tokens_of(cls, config, processor) -> list[int] | list[list[int]]:
        """The tokenizer does not parse control tokens in text, so labels are tokenized without a prompt."""
        return find_label_tokens(processor.tokenizer, "", config.words)


def _to_wav(waveform: np.ndarray, sampling_rate: int) -> str:
    """(samples,) as a WAV file of 32-bit floats, in base64."""
    try:
        import soundfile  # also needed by mistral-common, for decoding
    except ImportError as error:
        raise ImportError("Voxtral's processor needs mistral-common: pip install 'mistral-common[audio]'") from error
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(file.getvalue()).decode()
