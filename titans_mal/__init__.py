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
    "AudioEmotionPipeline": ".modeling.pipeline_audio_emotion",
    "ConversationMemoryCache": ".modeling.conversation_memory_cache",
    "TitansMemoryConfig": ".modeling.configuration_titans_mal",
    "TitansMemoryLayer": ".modeling.titans_memory_layer",
    "Qwen2AudioMALConfig": ".modeling.modeling_qwen2_audio_mal",
    "Qwen2AudioMALForAudioEmotion": ".modeling.modeling_qwen2_audio_mal",
    "draw_timeline": ".timeline",
    "load_audio": ".data.audio",
    "load_conversations": ".data.conversations",
    "synthetic_conversations": ".data.synthetic",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Whatever is used first, transformers' auto classes know the hosts from then on.
    if name not in ("draw_timeline", "load_audio", "load_conversations", "synthetic_conversations"):
        importlib.import_module(".auto", __name__)
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
