"""Conversational memory for audio language models."""

import importlib
from pathlib import Path

from ._version import __version__


# In a clone, Python started at its root finds this folder before the installed package, and `modeling/` beside it
# instead of inside it.
_CLONE = Path(__file__).resolve().parent.parent
if (_CLONE / "modeling" / "neural_memory.py").is_file() and not (Path(__file__).parent / "modeling").is_dir():
    __path__.append(str(_CLONE))

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
    "TitansMemoryConfig": ".modeling.configuration_titans_mal",
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


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Whatever is used first, transformers' auto classes know the hosts from then on, and models how to be published.
    if name not in _WITHOUT_A_MODEL:
        importlib.import_module(".hub", __name__)
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
