"""Synthetic conversations: their scripts, voices, Bayes bound, and table."""

from .table import NAMED_SUITES, PAUSE, SPLITS, speak, synthetic_conversations


__all__ = ["NAMED_SUITES", "PAUSE", "SPLITS", "speak", "synthetic_conversations"]
