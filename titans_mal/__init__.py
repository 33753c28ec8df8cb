"""Conversational memory for audio language models."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__


# In a clone, Python started at its root finds this folder before the installed package, and `modeling/` beside it
# instead of inside it; `titans_mal.quickstart` is in `examples/`.
_CLONE = Path(__file__).resolve().parent.parent
if (_CLONE / "modeling" / "neural_memory.py").is_file() and not (Path(__file__).parent / "modeling").is_dir():
    __path__ += [str(_CLONE), str(_CLONE / "examples")]

if TYPE_CHECKING:  # For type checkers alone, which do not see what `_PUBLIC` says.
    from .auto import AutoModelForAudioEmotion as AutoModelForAudioEmotion
    from .auto import register_host as register_host
    from .data.audio import load_audio as load_audio
    from .data.conversations import load_conversations as load_conversations
    from .data.recordings import load_recording as load_recording
    from .data.synthetic import synthetic_conversations as synthetic_conversations
    from .evaluation.evaluate_conversations import evaluate_conversations as evaluate_conversations
    from .live import ConversationAnalyzer as ConversationAnalyzer
    from .live import ConversationPool as ConversationPool
    from .live import TurnDetector as TurnDetector
    from .modeling.audio_emotion_mixin import AudioEmotionMixin as AudioEmotionMixin
    from .modeling.configuration_titans_mal import AudioEmotionConfigMixin as AudioEmotionConfigMixin
    from .modeling.configuration_titans_memory import TitansMemoryConfig as TitansMemoryConfig
    from .modeling.conversation_memory_cache import ConversationMemoryCache as ConversationMemoryCache
    from .modeling.conversation_store import ConversationStore as ConversationStore
    from .modeling.modeling_audioflamingo3_mal import AudioFlamingo3MALConfig as AudioFlamingo3MALConfig
    from .modeling.modeling_audioflamingo3_mal import (
        AudioFlamingo3MALForAudioEmotion as AudioFlamingo3MALForAudioEmotion,
    )
    from .modeling.modeling_gemma3n_mal import Gemma3nMALConfig as Gemma3nMALConfig
    from .modeling.modeling_gemma3n_mal import Gemma3nMALForAudioEmotion as Gemma3nMALForAudioEmotion
    from .modeling.modeling_gemma4_mal import Gemma4MALConfig as Gemma4MALConfig
    from .modeling.modeling_gemma4_mal import Gemma4MALForAudioEmotion as Gemma4MALForAudioEmotion
    from .modeling.modeling_glmasr_mal import GlmAsrMALConfig as GlmAsrMALConfig
    from .modeling.modeling_glmasr_mal import GlmAsrMALForAudioEmotion as GlmAsrMALForAudioEmotion
    from .modeling.modeling_granite_speech_mal import GraniteSpeechMALConfig as GraniteSpeechMALConfig
    from .modeling.modeling_granite_speech_mal import (
        GraniteSpeechMALForAudioEmotion as GraniteSpeechMALForAudioEmotion,
    )
    from .modeling.modeling_musicflamingo_mal import MusicFlamingoMALConfig as MusicFlamingoMALConfig
    from .modeling.modeling_musicflamingo_mal import MusicFlamingoMALForAudioEmotion as MusicFlamingoMALForAudioEmotion
    from .modeling.modeling_phi4_multimodal_mal import Phi4MultimodalMALConfig as Phi4MultimodalMALConfig
    from .modeling.modeling_phi4_multimodal_mal import (
        Phi4MultimodalMALForAudioEmotion as Phi4MultimodalMALForAudioEmotion,
    )
    from .modeling.modeling_qwen2_5_omni_mal import Qwen2_5OmniMALConfig as Qwen2_5OmniMALConfig
    from .modeling.modeling_qwen2_5_omni_mal import Qwen2_5OmniMALForAudioEmotion as Qwen2_5OmniMALForAudioEmotion
    from .modeling.modeling_qwen2_audio_mal import Qwen2AudioMALConfig as Qwen2AudioMALConfig
    from .modeling.modeling_qwen2_audio_mal import Qwen2AudioMALForAudioEmotion as Qwen2AudioMALForAudioEmotion
    from .modeling.modeling_qwen3_asr_mal import Qwen3ASRMALConfig as Qwen3ASRMALConfig
    from .modeling.modeling_qwen3_asr_mal import Qwen3ASRMALForAudioEmotion as Qwen3ASRMALForAudioEmotion
    from .modeling.modeling_qwen3_omni_moe_mal import Qwen3OmniMoeMALConfig as Qwen3OmniMoeMALConfig
    from .modeling.modeling_qwen3_omni_moe_mal import Qwen3OmniMoeMALForAudioEmotion as Qwen3OmniMoeMALForAudioEmotion
    from .modeling.modeling_voxtral_mal import VoxtralMALConfig as VoxtralMALConfig
    from .modeling.modeling_voxtral_mal import VoxtralMALForAudioEmotion as VoxtralMALForAudioEmotion
    from .modeling.pipeline_audio_emotion import AudioEmotionPipeline as AudioEmotionPipeline
    from .modeling.titans_memory_layer import TitansMemoryLayer as TitansMemoryLayer
    from .publishing import publish_folder as publish_folder
    from .publishing import publish_model as publish_model
    from .timeline import draw_timeline as draw_timeline
    from .training import ConversationTrainer as ConversationTrainer
    from .training import ConversationTrainingArguments as ConversationTrainingArguments
    from .training import choose_trained_parts as choose_trained_parts

# Public names and where they live: nothing heavy is imported, and no host registered, before one is used.
_PUBLIC = {
    "AutoModelForAudioEmotion": ".auto",
    "register_host": ".auto",
    "AudioEmotionConfigMixin": ".modeling.configuration_titans_mal",
    "AudioEmotionMixin": ".modeling.audio_emotion_mixin",
    "AudioEmotionPipeline": ".modeling.pipeline_audio_emotion",
    "ConversationAnalyzer": ".live",
    "ConversationMemoryCache": ".modeling.conversation_memory_cache",
    "ConversationPool": ".live",
    "ConversationStore": ".modeling.conversation_store",
    "ConversationTrainer": ".training",
    "ConversationTrainingArguments": ".training",
    "TitansMemoryConfig": ".modeling.configuration_titans_memory",
    "TurnDetector": ".live",
    "TitansMemoryLayer": ".modeling.titans_memory_layer",
    "choose_trained_parts": ".training",
    "draw_timeline": ".timeline",
    "evaluate_conversations": ".evaluation.evaluate_conversations",
    "load_audio": ".data.audio",
    "load_conversations": ".data.conversations",
    "load_recording": ".data.recordings",
    "publish_folder": ".publishing",
    "publish_model": ".publishing",
    "synthetic_conversations": ".data.synthetic",
}
_WITHOUT_A_MODEL = ("draw_timeline", "load_audio", "load_conversations", "load_recording", "synthetic_conversations")

# The hosts: a configuration and a model class each, as `VoxtralMALConfig` and `VoxtralMALForAudioEmotion`.
_HOSTS = {
    "AudioFlamingo3": ".modeling.modeling_audioflamingo3_mal",
    "Gemma3n": ".modeling.modeling_gemma3n_mal",
    "Gemma4": ".modeling.modeling_gemma4_mal",
    "GlmAsr": ".modeling.modeling_glmasr_mal",
    "GraniteSpeech": ".modeling.modeling_granite_speech_mal",
    "MusicFlamingo": ".modeling.modeling_musicflamingo_mal",
    "Phi4Multimodal": ".modeling.modeling_phi4_multimodal_mal",
    "Qwen2_5Omni": ".modeling.modeling_qwen2_5_omni_mal",
    "Qwen2Audio": ".modeling.modeling_qwen2_audio_mal",
    "Qwen3ASR": ".modeling.modeling_qwen3_asr_mal",
    "Qwen3OmniMoe": ".modeling.modeling_qwen3_omni_moe_mal",
    "Voxtral": ".modeling.modeling_voxtral_mal",
}
_PUBLIC |= {f"{host}MAL{kind}": module for host, module in _HOSTS.items() for kind in ("Config", "ForAudioEmotion")}

__all__ = ["__version__", *_PUBLIC]


if not TYPE_CHECKING:  # A type checker that saw `__getattr__` would accept any name.

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Whatever is used first, transformers' auto classes know the hosts from then on, and models their publisher.
        if name not in _WITHOUT_A_MODEL:
            importlib.import_module(".hub", __name__)
        value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
