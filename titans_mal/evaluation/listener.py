"""Deprecated names of `titans_mal.evaluation.table_scoring`."""

from __future__ import annotations

from ..modeling.deprecation import warn_renamed
from . import table_scoring
from .answer_parsing import parse_label as parse_label
from .table_scoring import Conversation as Conversation
from .table_scoring import Group as Group
from .table_scoring import make_groups as make_groups


_RENAMED = {"HeardTurn": "GroupTurn", "Heard": "TableScores", "Listener": "TableScorer"}


def __getattr__(name: str):
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"titans_mal.evaluation.listener.{name}", f"titans_mal.evaluation.table_scoring.{_RENAMED[name]}")
    return getattr(table_scoring, _RENAMED[name])
