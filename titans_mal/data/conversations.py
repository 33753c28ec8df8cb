"""The table of conversations that everything here works with, and its reader for a folder of sound files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value


METADATA_FILE = "metadata.csv"
REQUIRED_COLUMNS = ("file_name", "conversation_id", "turn_index", "speaker")


def conversation_table(rows: list[dict], labels: Sequence[str]) -> Dataset:
    """A dataset of turns, sound not decoded.

    Args:
        rows: one dict a turn with `conversation_id`, `turn_index`, `speaker`, `audio` (a dict with `bytes` and
            `path`), `emotion` (index into `labels`, -1 for none of them), `start`, `end` (seconds); all or none have
            `transcript`.
        labels: names of the emotions.
    """
    columns = {
        "conversation_id": Value("string"),
        "turn_index": Value("int64"),
        "speaker": Value("string"),
        # As `Audio(decode=False)` stores it; encoding through that feature would ask for a decoder.
        "audio": {"bytes": Value("binary"), "path": Value("string")},
        "emotion": ClassLabel(names=list(labels)),
        "start": Value("float64"),
        "end": Value("float64"),
    }
    if rows and "transcript" in rows[0]:
        columns["transcript"] = Value("string")
    return Dataset.from_list(rows, features=Features(columns)).cast_column("audio", Audio(decode=False))


def load_conversations(folder: str | Path, *, label_set: Sequence[str] | None = None) -> DatasetDict:
    """Read a folder with a `metadata.csv` of one line a turn.

    Its columns are `file_name` (relative to the folder), `conversation_id`, `turn_index`, `speaker`, and optionally
    `emotion`, `start` and `end` (seconds), `transcript` and `split`.

    Args:
        folder: with `metadata.csv` and the sound files.
        label_set: names of the emotions, in the order of their ids; None takes those of the table, sorted. An emotion
            outside of them, or an empty one, becomes -1.

    Returns:
        A dataset for each value of `split` ("test" alone where the table has no such column), with the columns
        `conversation_id, turn_index, speaker, audio, emotion, start, end[, transcript]`, sorted by conversation and
        turn. `audio` is a dict with `bytes` (None) and `path`, for `load_audio`; `start` and `end` are None where the
        table does not tell them.

    Raises:
        FileNotFoundError: if the folder has no `metadata.csv`.
        ValueError: naming the line, for a missing column, sound file or speaker, a time or turn that is no number, a
            turn that ends before it starts, or turns that are not told in order.
    """
    folder = Path(folder)
    if not (folder / METADATA_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {METADATA_FILE}.")
    turns = list(_read_turns(folder))
    if not turns:
        raise ValueError(f"{folder / METADATA_FILE} holds no turns.")
    _check_order(turns, folder / METADATA_FILE)
    labels = list(label_set) if label_set is not None else sorted({t["emotion"] for t in turns if t["emotion"]})
    splits: dict[str, list[dict]] = {}
    for turn in sorted(turns, key=lambda turn: (turn["conversation_id"], turn["turn_index"])):
        turn["emotion"] = labels.index(turn["emotion"]) if turn["emotion"] in labels else -1
        del turn["line"]
        splits.setdefault(turn.pop("split"), []).append(turn)
    return DatasetDict({name: conversation_table(rows, labels) for name, rows in splits.items()})


def turns_by_conversation(turns: Iterable[dict]) -> Iterator[tuple[str, list[dict]]]:
    """The id and the turns of each conversation of a table that is sorted by conversation."""
    for name, rows in groupby(turns, key=lambda turn: turn["conversation_id"]):
        yield name, list(rows)


def _read_turns(folder: Path) -> Iterator[dict]:
    path = folder / METADATA_FILE
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        present = [name or "" for name in reader.fieldnames or []]
        missing = [name for name in REQUIRED_COLUMNS if name not in present]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}; it has {present}.")
        for line, row in enumerate(reader, start=2):
            try:
                yield _as_turn(row, folder) | {"line": line}
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None


def _as_turn(row: dict, folder: Path) -> dict:
    if None in row or None in row.values():
        raise ValueError("the number of fields is not that of the header.")
    sound = folder / row["file_name"]
    if not row["file_name"] or not sound.is_file():
        raise ValueError(f"there is no sound file {row['file_name']!r} in {folder}.")
    for name in ("conversation_id", "speaker"):
        if not row[name].strip():
            raise ValueError(f"{name} is empty.")
    if ("start" in row) != ("end" in row):
        raise ValueError("start and end go together: the table has one of the columns.")
    start, end = (_number(row, name) if name in row else None for name in ("start", "end"))
    if start is not None and not 0 <= start < end:
        raise ValueError(f"a turn must start at 0 s or later and end after that, got {start} to {end}.")
    turn_index = _number(row, "turn_index")
    if turn_index != int(turn_index) or turn_index < 0:
        raise ValueError(f"turn_index must be a whole number from 0 on, got {row['turn_index']!r}.")
    turn = {
        "conversation_id": row["conversation_id"],
        "turn_index": int(turn_index),
        "speaker": row["speaker"],
        "audio": {"bytes": None, "path": str(sound.resolve())},
        "emotion": row.get("emotion", ""),
        "start": start,
        "end": end,
        "split": row.get("split") or "test",
    }
    return turn | ({"transcript": row["transcript"]} if "transcript" in row else {})


def _number(row: dict, name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {row[name]!r}.")
    return value


def _check_order(turns: list[dict], path: Path) -> None:
    last: dict[str, dict] = {}
    for turn in turns:
        name = turn["conversation_id"]
        before = last.setdefault(name, turn)
        where = f"{path}, line {turn['line']}: conversation {name!r}"
        if before is not turn and turn["turn_index"] <= before["turn_index"]:
            raise ValueError(f"{where} has turn {turn['turn_index']} after turn {before['turn_index']}.")
        if turn["start"] is not None and turn["start"] < before["start"]:
            raise ValueError(f"{where} starts at {turn['start']} s, before the turn above at {before['start']} s.")
        if turn["split"] != before["split"]:
            raise ValueError(f"{where} is in the splits {before['split']!r} and {turn['split']!r}.")
        last[name] = turn
