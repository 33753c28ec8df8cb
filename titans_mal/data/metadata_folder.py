"""Reads a folder of sound files with a `metadata.csv` of one line a turn."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from .table import Turn, check_times, whole_turn_index


METADATA_FILE = "metadata.csv"
REQUIRED_COLUMNS = ("file_name", "conversation_id", "turn_index", "speaker")


def read_metadata_folder(folder: Path) -> list[Turn]:
    """The turns of a folder's table.

    Its columns are `file_name` (relative to the folder), `conversation_id`, `turn_index`, `speaker`, and optionally
    `emotion`, `votes` (of raters, as `happy;happy;sad`), `start` and `end` (seconds), `transcript` and `split` ("test"
    where it is not told).

    Raises:
        FileNotFoundError: if the folder has no `metadata.csv`.
        ValueError: naming the line, for a missing column, sound file or speaker, a time or turn that is no number, a
            turn that ends before it starts, or turns that are not told in order.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {METADATA_FILE}.")
    try:
        turns = list(_read_turns(folder))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}") from error
    if not turns:
        raise ValueError(f"{path} holds no turns.")
    _check_order(turns, path)
    return [turn for _, turn in turns]


def _read_turns(folder: Path) -> Iterator[tuple[int, Turn]]:
    path = folder / METADATA_FILE
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        present = [name or "" for name in reader.fieldnames or []]
        repeated = sorted({name for name in present if present.count(name) > 1})
        if repeated:
            raise ValueError(f"{path} has the columns {repeated} more than once.")
        missing = [name for name in REQUIRED_COLUMNS if name not in present]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}; it has {present}.")
        for line, row in enumerate(reader, start=2):
            try:
                yield line, _as_turn(row, folder)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None


def _as_turn(row: dict, folder: Path) -> Turn:
    if None in row or None in row.values():
        raise ValueError("the number of fields is not that of the header.")
    row = {name: value.strip() for name, value in row.items()}
    sound = folder / row["file_name"]
    if not row["file_name"] or not sound.is_file():
        raise ValueError(f"there is no sound file {row['file_name']!r} in {folder}.")
    for name in ("conversation_id", "speaker"):
        if not row[name]:
            raise ValueError(f"{name} is empty.")
    if ("start" in row) != ("end" in row):
        raise ValueError("start and end go together: the table has one of the columns.")
    start, end = (_number(row, name) if name in row else None for name in ("start", "end"))
    check_times(start, end)
    turn_index = whole_turn_index(row["turn_index"])
    return Turn(
        row["conversation_id"],
        row["speaker"],
        str(sound.resolve()),
        words=(row["emotion"],) if row.get("emotion") else (),
        votes=tuple((vote.strip(),) for vote in row.get("votes", "").split(";") if vote.strip()),
        start=start,
        end=end,
        transcript=row.get("transcript") or None,
        group=row.get("split") or "test",
        order=(turn_index,),
        turn_index=turn_index,
    )


def _number(row: dict, name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {row[name]!r}.")
    return value


def _check_order(turns: list[tuple[int, Turn]], path: Path) -> None:
    last: dict[str, Turn] = {}
    for line, turn in turns:
        name = turn.conversation_id
        before = last.setdefault(name, turn)
        where = f"{path}, line {line}: conversation {name!r}"
        if before is not turn and turn.turn_index <= before.turn_index:
            raise ValueError(f"{where} has turn {turn.turn_index} after turn {before.turn_index}.")
        if turn.start is not None and turn.start < before.start:
            raise ValueError(f"{where} starts at {turn.start} s, before the turn above at {before.start} s.")
        if turn.group != before.group:
            raise ValueError(f"{where} is in the splits {before.group!r} and {turn.group!r}.")
        last[name] = turn
