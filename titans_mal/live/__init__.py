"""Conversations while they go on: one at a time, many at once, or out of one stream of sound."""

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
