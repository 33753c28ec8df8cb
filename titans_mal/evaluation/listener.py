"""Deprecated names of `table_scoring`."""

from __future__ import annotations

import warnings

from . import table_scoring
from .table_scoring import Conversation as Conversation
from .table_scoring import Group as Group
from .table_scoring import make_groups as make_groups
from .table_scoring import parse_label as parse_label


_RENAMED = {"HeardTurn": "GroupTurn", "Heard": "TableScores", "Listener": "TableScorer"}


def __getattr__(name: str):
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"titans_mal.evaluation.listener.{name} is now {_RENAMED[name]} of titans_mal.evaluation.table_scoring; the "
        "old name goes with the next version.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(table_scoring, _RENAMED[name])
