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
from .modeling.configuration_titans_mal import TitansMemoryConfig
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
    """Loads the model class with memory that a checkpoint's configuration asks for."""

    _model_mapping: Any = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """What `save_pretrained` wrote; arguments as `AudioEmotionCheckpointMixin.from_pretrained`.

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
                f"{pretrained_model_name_or_path} holds no model with memory: from_base gives a host one."
            ) from error

    @classmethod
    def from_base(cls, pretrained_model_name_or_path, **kwargs):
        """A host checkpoint plus a fresh memory; arguments as `AudioEmotionCheckpointMixin.from_base`.

        Raises:
            FileNotFoundError: for a folder that does not exist.
            ValueError: for a host that has no model class with memory, naming those that have.
        """
        check_location(pretrained_model_name_or_path)
        with readable_checkpoint(pretrained_model_name_or_path):
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub_keywords(kwargs))
        model_type = config.model_type
        if model_type in NO_HOSTS:
            raise ValueError(f"No memory for a host of type {model_type!r}: {NO_HOSTS[model_type]}.")
        if model_type not in HOSTS:
            raise ValueError(
                f"No memory for a host of type {model_type!r}: the hosts are {sorted(HOSTS)}; register_host adds one."
            )
        return HOSTS[model_type].from_base(pretrained_model_name_or_path, **kwargs)


class _UseAudioEmotion:
    """What `pipeline("audio-classification")` finds, whose own pipeline gives a model no prompt; it always raises."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        raise ValueError(
            f"{pretrained_model_name_or_path} hears conversations: import AudioEmotionPipeline of titans_mal and use "
            f'pipeline("audio-emotion", model="{pretrained_model_name_or_path}").'
        )


# transformers looks an auto class up there by its name.
vars(transformers.models.auto)["AutoModelForAudioEmotion"] = AutoModelForAudioEmotion

# The model class with memory of each host, by the model type of the host and of larger models that it is a part of.
HOSTS: dict[str, Any] = {}

# Audio language models that cannot carry a memory, and why.
NO_HOSTS = {
    "voxtral_realtime": "Voxtral Realtime adds its audio to every token, so there are no audio positions to read at",
    "phi4mm": "this is Phi-4-multimodal in the format of its remote code; give a revision in that of transformers",
    "vibevoice_asr": "VibeVoice-ASR draws its audio features at random, so a turn is not heard the same way twice",
}


def register_host(config_class: Any, model_class: type) -> None:
    """Make a host with memory known to `AutoModelForAudioEmotion` and transformers' own auto classes.

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
    """The host's processor; None where it has none, or where that needs a package that is not installed."""
    try:
        return transformers.models.auto.processing_auto.PROCESSOR_MAPPING.get(host_config, None)
    except ImportError:
        return None


if "transformers.pipelines" in sys.modules:
    # Else it takes seconds to import, and those who want it say `AudioEmotionPipeline`.
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
