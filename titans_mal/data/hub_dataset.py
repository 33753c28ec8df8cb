"""Reads a dataset of the Hub whose rows are turns."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Audio, ClassLabel, Dataset, load_dataset

from .table import Turn


REQUIRED_COLUMNS = ("conversation_id", "turn_index", "speaker", "audio")
_OPTIONAL_COLUMNS = ("emotion", "start", "end", "transcript")


def read_hub_dataset(name: str, columns: Mapping[str, str]) -> dict[str, tuple[list[Turn], Dataset]]:
    """For each split its turns, in its order and without their sound, and a dataset of the column `audio` alone.

    Args:
        name: of the dataset, as `datasets.load_dataset` takes it.
        columns: its column for each of ours where the names differ.

    Raises:
        ValueError: for a column that is not ours, is missing, or labels that are numbers without names.
    """
    allowed = (*REQUIRED_COLUMNS, *_OPTIONAL_COLUMNS)
    unknown = sorted(set(columns) - set(allowed))
    if unknown:
        raise ValueError(f"columns maps from {allowed} to those of the dataset, got {unknown}.")
    named = {ours: columns.get(ours, ours) for ours in allowed}
    return {split: _read_split(name, table, split, named, columns) for split, table in load_dataset(name).items()}


def _read_split(name: str, table: Dataset, split: str, named: dict[str, str], columns: Mapping[str, str]):
    wanted = {*REQUIRED_COLUMNS, *columns}
    missing = sorted(named[ours] for ours in wanted if named[ours] not in table.column_names)
    if missing:
        raise ValueError(f"{name} lacks the columns {missing}; it has {table.column_names}: give `columns`.")
    emotion = table.features.get(named["emotion"])
    if emotion is not None and not isinstance(emotion, ClassLabel) and emotion.dtype != "string":
        raise ValueError(f"{name}: {named['emotion']!r} must be a ClassLabel or strings, got {emotion.dtype}.")
    present = {ours: theirs for ours, theirs in named.items() if ours != "audio" and theirs in table.column_names}
    values = {ours: table.with_format(None)[theirs][:] for ours, theirs in present.items()}
    if isinstance(emotion, ClassLabel):
        values["emotion"] = [None if i is None or i < 0 else emotion.int2str(i) for i in values["emotion"]]
    rows = [dict(zip(values, row)) for row in zip(*values.values())]
    sound = table.select_columns([named["audio"]]).cast_column(named["audio"], Audio(decode=False))
    if named["audio"] != "audio":
        sound = sound.rename_column(named["audio"], "audio")
    return [_as_turn(row, split) for row in rows], sound


def _as_turn(row: dict, split: str) -> Turn:
    return Turn(
        str(row["conversation_id"]),
        "unknown" if row["speaker"] is None else str(row["speaker"]),
        "",
        words=(row["emotion"],) if row.get("emotion") else (),
        start=row.get("start"),
        end=row.get("end"),
        transcript=row.get("transcript"),
        group=split,
        order=(int(row["turn_index"]),),
        turn_index=int(row["turn_index"]),
    )
