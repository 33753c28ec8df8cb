"""Live conversations: one at a time, many at once, or from an audio stream."""

from .analyzer import ConversationAnalyzer
from .label_settings import LabelSettings
from .pool import ConversationPool, PoolError, PoolObserver
from .turn_detector import SpokenTurn, TurnDetector
from .turns import TurnEmotion


__all__ = [
    "ConversationAnalyzer",
    "ConversationPool",
    "LabelSettings",
    "PoolError",
    "PoolObserver",
    "SpokenTurn",
    "TurnDetector",
    "TurnEmotion",
]
