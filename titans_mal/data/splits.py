"""Draw splits for data without splits: by conversation, or so that no speaker is in two of them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from .table import Turn


SPLIT_BY = ("conversation", "speaker")


def check_split_options(by: str | None, test_share: float | None, validation_share: float | None) -> None:
    """Raise ValueError unless `by` is valid and the shares are above 0 and leave turns for training."""
    if by is None:
        if test_share is not None or validation_share is not None:
            raise ValueError(f"test_share and validation_share need split_by, one of {SPLIT_BY}.")
        return
    if by not in SPLIT_BY:
        raise ValueError(f"split_by must be one of {SPLIT_BY}, got {by!r}.")
    shares = [share for share in (test_share, validation_share) if share is not None]
    if not shares or not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise ValueError(
            "split_by needs test_share, validation_share or both, above 0 and together below 1, got "
            f"{test_share!r} and {validation_share!r}."
        )


def draw_splits(
    turns: Sequence[Turn], *, by: str, test_share: float | None, validation_share: float | None, seed: int
) -> None:
    """Assign each turn to "train", "validation" or "test", in whole conversations.

    Args:
        by: "conversation", or "speaker": conversations that share a speaker stay together.
        test_share, validation_share: minimal share of the turns; None: no such split.
        seed: random seed.

    Raises:
        ValueError: if the turns already have splits, or there are too few units for the splits.
    """
    groups = sorted({turn.group for turn in turns})
    if len(groups) > 1 and not all(group.startswith(("fold", "session")) for group in groups):
        raise ValueError(f"split_by is for data without splits, but this has {groups}.")
    units = _units(turns, by)
    random.Random(seed).shuffle(units)
    wanted = [("test", test_share), ("validation", validation_share)]
    for split, share in wanted:
        if share is None:
            continue
        count = 0
        while units and count < share * len(turns):
            unit = units.pop()
            count += len(unit)
            for turn in unit:
                turn.group = split
    if not units:
        joined = (
            " Conversations with a common speaker stay together, and speakers with the same name count as one person."
        )
        raise ValueError(
            f"No turn is left for training: split by {by}, the data has too few parts for these shares."
            + (joined if by == "speaker" else "")
        )
    for turn in (turn for unit in units for turn in unit):
        turn.group = "train"


def _units(turns: Sequence[Turn], by: str) -> list[list[Turn]]:
    """Groups of turns that must stay in one split, in the order of their conversations' names."""
    joined = {turn.conversation_id: turn.conversation_id for turn in turns}

    def first_of(name: str) -> str:
        while joined[name] != name:
            joined[name] = name = joined[joined[name]]
        return name

    conversation_of: dict[str, str] = {}
    for turn in turns if by == "speaker" else ():
        if turn.speaker is not None:
            other = conversation_of.setdefault(turn.speaker, turn.conversation_id)
            ours, theirs = sorted((first_of(turn.conversation_id), first_of(other)))
            joined[theirs] = ours
    units: dict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        units[first_of(turn.conversation_id)].append(turn)
    return [units[name] for name in sorted(units)]
