"""Qwen3-Omni (its thinker) with conversational memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .audio_emotion_mixin import AudioEmotionMixin
from .configuration_titans_mal import AudioEmotionConfigMixin
from .turns_by_length import run_by_length


class Qwen3OmniMoeMALConfig(AudioEmotionConfigMixin, Qwen3OmniMoeThinkerConfig):
    """`Qwen3OmniMoeThinkerConfig` with a memory and an emotion readout."""

    model_type = "qwen3_omni_moe_mal"
    part_of: ClassVar[dict[str, str]] = {"qwen3_omni_moe": "thinker_config"}


class Qwen3OmniMoeMALForAudioEmotion(AudioEmotionMixin, Qwen3OmniMoeThinkerForConditionalGeneration):
    """`Qwen3OmniMoeThinkerForConditionalGeneration` with a memory of the conversation and emotion scores."""

    config_class = Qwen3OmniMoeMALConfig
    has_window = False
    tower_mixes_padding = True
    mixing_tower = "audio_tower"

    @staticmethod
    def run_mixing_tower(
        tower: Any, forward: Callable, input_features: Tensor, feature_lens: Tensor, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Turns are cut into chunks, which are padded to the longest: only turns within one chunk see padding."""
        chunk, frames = 2 * tower.n_window, feature_lens.tolist()
        of_row = input_features.split(frames, dim=1)
        # Three convolutions of stride 2.
        counts = [count // chunk * -(-chunk // 8) + -(-(count % chunk) // 8) for count in frames]

        def run(rows: list[int], length: int) -> Tensor:
            some = torch.cat([of_row[row] for row in rows], dim=1)
            hidden = forward(some, feature_lens=feature_lens[rows], **kwargs).last_hidden_state
            return nn.utils.rnn.pad_sequence(hidden.split([counts[row] for row in rows]), batch_first=True)

        padded = run_by_length(run, feature_lens.clamp(max=chunk))
        hidden = torch.cat([row[:count] for row, count in zip(padded, counts)])
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden)
