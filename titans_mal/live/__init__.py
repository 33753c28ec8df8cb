"""Conversations while they go on: one at a time, many at once, or out of one stream of sound."""

from .analyzer import ConversationAnalyzer
from .pool import ConversationPool
from .turn_detector import SpokenTurn, TurnDetector
from .turns import TurnEmotion


__all__ = ["ConversationAnalyzer", "ConversationPool", "SpokenTurn", "TurnDetector", "TurnEmotion"]
