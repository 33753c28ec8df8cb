"""Read a Hub dataset whose rows are turns."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Audio, ClassLabel, Dataset, load_dataset

from ..modeling.turn_rules import given_text
from .problems import Problem
from .table import DIMENSIONS, GROUPS, Turn, check_span, whole_turn_index


REQUIRED_COLUMNS = ("conversation_id", "turn_index", "speaker", "audio")
_OPTIONAL_COLUMNS = ("emotion", "start", "end", "transcript", *DIMENSIONS, *GROUPS)


def read_hub_dataset(
    name: str, columns: Mapping[str, str]
) -> tuple[dict[str, tuple[list[Turn], Dataset]], list[Problem]]:
    """For each split, its turns (in order, without audio), and a dataset with only the column `audio`.

    Unusable rows are reported as problems and are not in the dataset.

    Args:
        name: name of the dataset, for `datasets.load_dataset`.
        columns: the dataset's column for each of ours whose name differs.

    Raises:
        ValueError: for an unknown or missing column, or labels that are numbers without names.
    """
    allowed = (*REQUIRED_COLUMNS, *_OPTIONAL_COLUMNS)
    unknown = sorted(set(columns) - set(allowed))
    if unknown:
        raise ValueError(f"columns must map from {allowed} to columns of the dataset, got {unknown}.")
    named = {ours: columns.get(ours, ours) for ours in allowed}
    problems: list[Problem] = []
    tables = load_dataset(name).items()
    return {split: _read_split(name, table, split, named, columns, problems) for split, table in tables}, problems


def _read_split(
    name: str, table: Dataset, split: str, named: dict[str, str], columns: Mapping[str, str], problems: list[Problem]
):
    wanted = {*REQUIRED_COLUMNS, *columns}
    missing = sorted(named[ours] for ours in wanted if named[ours] not in table.column_names)
    if missing:
        raise ValueError(f"{name} lacks the columns {missing}; it has {table.column_names}: give `columns`.")
    dtype = getattr(table.features.get(named["emotion"]), "dtype", None)
    is_class = isinstance(table.features.get(named["emotion"]), ClassLabel)
    if named["emotion"] in table.column_names and not is_class and dtype not in ("string", "large_string"):
        raise ValueError(f"{name}: {named['emotion']!r} must be a ClassLabel or strings, got {dtype}.")
    present = {ours: theirs for ours, theirs in named.items() if ours != "audio" and theirs in table.column_names}
    values = {ours: _values(table, theirs) for ours, theirs in present.items()}
    audio = table.select_columns([named["audio"]]).cast_column(named["audio"], Audio(decode=False))
    if named["audio"] != "audio":
        audio = audio.rename_column(named["audio"], "audio")
    turns, kept = [], []
    seen: dict[tuple[str, int | None], int] = {}
    for number, row in enumerate(zip(*values.values())):
        try:
            turn = _as_turn(dict(zip(values, row)), split)
            place = (turn.conversation_id, turn.turn_index)
            if seen.setdefault(place, number) != number:
                raise ValueError(f"turn {turn.turn_index} of {turn.conversation_id!r} is also row {seen[place]}.")
        except ValueError as error:
            problems.append(Problem("unreadable", name, f"{split}, row {number}: {error}", split=split))
            continue
        turns.append(turn)
        kept.append(number)
    return turns, audio if len(kept) == len(audio) else audio.select(kept)


def _values(table: Dataset, column: str) -> list:
    """The values of a column: text without blanks around it, names for a `ClassLabel`, None for what is not given."""
    feature, values = table.features[column], table.with_format(None)[column][:]
    if not isinstance(feature, ClassLabel):
        # NaN is not equal to itself.
        given = (given_text(value) or None if isinstance(value, str) else value for value in values)
        return [None if value != value else value for value in given]
    return [None if value is None or value < 0 else feature.int2str(value) for value in values]


def _as_turn(row: dict, split: str) -> Turn:
    if row["conversation_id"] is None:
        raise ValueError("conversation_id is empty.")
    speaker = None if row["speaker"] is None else str(row["speaker"])
    check_span(row.get("start"), row.get("end"))
    turn_index = whole_turn_index(row["turn_index"])
    return Turn(
        str(row["conversation_id"]),
        speaker,
        "",
        words=(row["emotion"],) if row.get("emotion") else (),
        start=row.get("start"),
        end=row.get("end"),
        transcript=row.get("transcript"),
        group=split,
        order=(turn_index,),
        turn_index=turn_index,
        more={name: row[name] for name in (*DIMENSIONS, *GROUPS) if row.get(name) is not None},
    )
