"""Training of the memory, and of a LoRA on its host, on whole conversations."""

from .arguments import ConversationTrainingArguments
from .audio_cache import AudioTowerCache
from .checkpoints import last_good_checkpoint
from .trained_parts import choose_trained_parts, freeze_before_voice_memory, trained_parameters
from .trainer import ConversationTrainer
from .transitions import fit_emotion_transitions
from .voices import fit_voice_layer, fit_voice_memory


__all__ = [
    "AudioTowerCache",
    "ConversationTrainer",
    "ConversationTrainingArguments",
    "choose_trained_parts",
    "fit_emotion_transitions",
    "fit_voice_layer",
    "fit_voice_memory",
    "freeze_before_voice_memory",
    "last_good_checkpoint",
    "trained_parameters",
]
