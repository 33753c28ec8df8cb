"""Lists in messages."""

from __future__ import annotations

from collections.abc import Iterable


def shortened(entries: Iterable[object], most: int = 3, *, separator: str = ", ") -> str:
    """The first entries of a list as text; "..." shows that there are more.

    Args:
        entries: what is listed, each shown by `str`.
        most: number of entries that are shown.
        separator: text between two entries.
    """
    texts = [str(entry) for entry in entries]
    return separator.join([*texts[:most], *(["..."] if len(texts) > most else [])])
