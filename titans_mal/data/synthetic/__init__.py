"""Made-up conversations, apart from real ones: scripts, voices, how well they can be told, and their table."""

from .table import NAMED_SUITES, PAUSE, SPLITS, speak, synthetic_conversations


__all__ = ["NAMED_SUITES", "PAUSE", "SPLITS", "speak", "synthetic_conversations"]
