"""`AutoModelForAudioEmotion`, and the registration of hosts with transformers."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .modeling.checkpoint_files import check_location, hub_keywords, readable_checkpoint
from .modeling.configuration_titans_memory import TitansMemoryConfig
from .modeling.modeling_audioflamingo3_mal import AudioFlamingo3MALConfig, AudioFlamingo3MALForAudioEmotion
from .modeling.modeling_gemma3n_mal import Gemma3nMALConfig, Gemma3nMALForAudioEmotion
from .modeling.modeling_gemma4_mal import Gemma4MALConfig, Gemma4MALForAudioEmotion
from .modeling.modeling_glmasr_mal import GlmAsrMALConfig, GlmAsrMALForAudioEmotion
from .modeling.modeling_granite_speech_mal import GraniteSpeechMALConfig, GraniteSpeechMALForAudioEmotion
from .modeling.modeling_musicflamingo_mal import MusicFlamingoMALConfig, MusicFlamingoMALForAudioEmotion
from .modeling.modeling_phi4_multimodal_mal import Phi4MultimodalMALConfig, Phi4MultimodalMALForAudioEmotion
from .modeling.modeling_qwen2_5_omni_mal import Qwen2_5OmniMALConfig, Qwen2_5OmniMALForAudioEmotion
from .modeling.modeling_qwen2_audio_mal import Qwen2AudioMALConfig, Qwen2AudioMALForAudioEmotion
from .modeling.modeling_qwen3_asr_mal import Qwen3ASRMALConfig, Qwen3ASRMALForAudioEmotion
from .modeling.modeling_qwen3_omni_moe_mal import Qwen3OmniMoeMALConfig, Qwen3OmniMoeMALForAudioEmotion
from .modeling.modeling_voxtral_mal import VoxtralMALConfig, VoxtralMALForAudioEmotion


class AutoModelForAudioEmotion(_BaseAutoModelClass):
    """Load the model class with memory that a checkpoint's configuration names."""

    _model_mapping: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a checkpoint with memory; arguments as `AudioEmotionCheckpointMixin.from_pretrained`.

        Raises:
            FileNotFoundError: for a folder that does not exist.
            ValueError: for a checkpoint without memory, and as `AudioEmotionCheckpointMixin.from_pretrained`.
        """
        check_location(pretrained_model_name_or_path)
        try:
            with readable_checkpoint(pretrained_model_name_or_path):
                return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except ValueError as error:
            if not str(error).startswith("Unrecognized configuration class"):
                raise
            raise ValueError(
                f"{pretrained_model_name_or_path} is not a model with memory: from_base adds a memory to a host."
            ) from error

    @classmethod
    def from_base(cls, pretrained_model_name_or_path, **kwargs):
        """Load a host checkpoint and add a new memory; arguments as `AudioEmotionCheckpointMixin.from_base`.

        Raises:
            FileNotFoundError: for a folder that does not exist.
            ValueError: for a host without a model class with memory, naming the supported hosts.
        """
        check_location(pretrained_model_name_or_path)
        with readable_checkpoint(pretrained_model_name_or_path):
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub_keywords(kwargs))
        model_type = config.model_type
        if model_type in NO_HOSTS:
            raise ValueError(f"No memory for a host of type {model_type!r}: {NO_HOSTS[model_type]}.")
        if model_type not in HOSTS:
            raise ValueError(
                f"No memory for a host of type {model_type!r}: supported are {sorted(HOSTS)}; register_host adds one."
            )
        return HOSTS[model_type].from_base(pretrained_model_name_or_path, **kwargs)


class _UseAudioEmotion:
    """Raises an error for `pipeline("audio-classification")`, whose pipeline passes no prompt to the model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        raise ValueError(
            f"{pretrained_model_name_or_path} processes conversations and cannot be loaded for single audio "
            'clips: import AudioEmotionPipeline from titans_mal and use pipeline("audio-emotion", '
            f'model="{pretrained_model_name_or_path}").'
        )


# transformers looks up auto classes by name in this module.
vars(transformers.models.auto)["AutoModelForAudioEmotion"] = AutoModelForAudioEmotion

# Model class with memory by the model type of its host, and of larger models that contain the host.
HOSTS: dict[str, Any] = {}

# Audio language models that are not supported, with the reason.
NO_HOSTS = {
    "voxtral_realtime": "Voxtral Realtime adds its audio to every token, so no positions hold only audio",
    "phi4mm": "this is Phi-4-multimodal in the format of its remote code; use a revision in transformers' format",
    "vibevoice_asr": "VibeVoice-ASR samples its audio features at random, so the same turn gives different features",
}


def register_host(config_class: Any, model_class: type) -> None:
    """Register a host with memory with `AutoModelForAudioEmotion` and transformers' own auto classes.

    Args:
        config_class: an `AudioEmotionConfigMixin` and the host's config class.
        model_class: an `AudioEmotionMixin` and the host's model class.
    """
    host_config = config_class.host_class()
    HOSTS.update(dict.fromkeys((host_config.model_type, *config_class.part_of), model_class))
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class in (AutoModelForAudioEmotion, AutoModelForMultimodalLM, AutoModel):
        auto_class.register(config_class, model_class, exist_ok=True)
    AutoModelForAudioClassification.register(config_class, _UseAudioEmotion, exist_ok=True)
    processor_class = _processor_class_of(host_config)
    if processor_class is not None:
        AutoProcessor.register(config_class, processor_class, exist_ok=True)


def _processor_class_of(host_config: type) -> Any:
    """The host's processor class; None if it has none, or if its module needs a package that is not installed."""
    try:
        return transformers.models.auto.processing_auto.PROCESSOR_MAPPING.get(host_config, None)
    except ImportError:
        return None


if "transformers.pipelines" in sys.modules:
    # Otherwise the import, which takes seconds, is left to users of `AudioEmotionPipeline`.
    from .modeling import pipeline_audio_emotion as pipeline_audio_emotion

AutoConfig.register(TitansMemoryConfig.model_type, TitansMemoryConfig, exist_ok=True)
for _host in (
    (AudioFlamingo3MALConfig, AudioFlamingo3MALForAudioEmotion),
    (Gemma3nMALConfig, Gemma3nMALForAudioEmotion),
    (Gemma4MALConfig, Gemma4MALForAudioEmotion),
    (GlmAsrMALConfig, GlmAsrMALForAudioEmotion),
    (GraniteSpeechMALConfig, GraniteSpeechMALForAudioEmotion),
    (MusicFlamingoMALConfig, MusicFlamingoMALForAudioEmotion),
    (Phi4MultimodalMALConfig, Phi4MultimodalMALForAudioEmotion),
    (Qwen2_5OmniMALConfig, Qwen2_5OmniMALForAudioEmotion),
    (Qwen2AudioMALConfig, Qwen2AudioMALForAudioEmotion),
    (Qwen3ASRMALConfig, Qwen3ASRMALForAudioEmotion),
    (Qwen3OmniMoeMALConfig, Qwen3OmniMoeMALForAudioEmotion),
    (VoxtralMALConfig, VoxtralMALForAudioEmotion),
):
    register_host(*_host)
