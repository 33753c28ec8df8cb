"""Tables of conversations as a training takes them: several evaluation sets, long turns, soft labels."""

from __future__ import annotations

import re

from datasets import Dataset

from ..data.table import SOFT_LABELS


def evaluation_sets(given: Dataset | dict[str, Dataset] | None) -> dict[str, Dataset]:
    """Evaluation sets by name; a single set has no name.

    Raises:
        ValueError: for names that are not valid as folder names.
    """
    if given is None:
        return {}
    tables = given if isinstance(given, dict) else {"": given}
    wrong = [name for name in tables if tables is given and not re.fullmatch(r"[\w-]+", str(name))]
    if wrong:
        raise ValueError(f"Names of evaluation sets may contain letters, digits, - and _, got {wrong}.")
    return tables


def longer_turns(table: Dataset, window: float | None) -> list[tuple[str, float]]:
    """Name and length of turns that are longer than the host's window, if the table has lengths."""
    if window is None or "seconds" not in table.column_names:
        return []
    columns = table.select_columns(["conversation_id", "turn_index", "seconds"]).to_dict()
    return [
        (f"{conversation}, turn {index}", seconds)
        for conversation, index, seconds in zip(*columns.values())
        if seconds is not None and seconds > window
    ]


def check_soft_labels(table: Dataset) -> None:
    """Raise ValueError for a table whose labelled turns have no valid shares of the raters' votes."""
    labels = table.features["emotion"].names
    if SOFT_LABELS not in table.column_names:
        raise ValueError(f"soft_labels need the column {SOFT_LABELS}, but the data has {table.column_names}.")
    for row, (shares, label) in enumerate(zip(table[SOFT_LABELS], table["emotion"])):
        if label >= 0 and (
            shares is None or len(shares) != len(labels) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-3
        ):
            raise ValueError(f"{SOFT_LABELS} of row {row} must be {len(labels)} shares that sum to 1, got {shares}.")
