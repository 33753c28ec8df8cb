"""Read a folder of audio files with a `metadata.csv` that has one line per turn."""

from __future__ import annotations

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..modeling.turn_rules import given_text, is_much_longer
from .audio import AudioDecodingError, audio_seconds, part_of_file
from .audio_paths import resolve_files
from .problems import Problem
from .segment_files import END_TOLERANCE
from .table import DIMENSIONS, GROUPS, Turn, check_span, whole_turn_index
from .text_files import check_field_count, parse_seconds, read_table


METADATA_FILE = "metadata.csv"
REQUIRED_COLUMNS = ("file_name", "conversation_id", "turn_index", "speaker")
_TIMES = ("start", "end")
# Seconds by which the length of a turn and that of its file may differ.
_ROUNDING = 0.1
_COLUMNS = dict.fromkeys((*REQUIRED_COLUMNS, *_TIMES, "votes", "split", *DIMENSIONS, *GROUPS), ()) | {
    "emotion": ("label",),
    "transcript": ("text", "transcription", "utterance"),
}


def read_metadata_folder(folder: Path) -> tuple[list[Turn], list[Problem]]:
    """The turns of a folder's table, and its problems, by line.

    The columns are `file_name` (relative to the folder), `conversation_id`, `turn_index`, `speaker`, and optionally
    `emotion`, `votes` (of raters, as `happy;happy;sad`), `start` and `end` (seconds), `transcript`, `split` (default
    "test"), `valence`, `arousal` and `dominance` (numbers, empty if unknown), `gender` and `language`. Capitals in the
    header are ignored; columns may be separated by commas, semicolons or tabs. Fields such as `NaN` or `None` are
    empty (`turn_rules.NOT_GIVEN`). A file that all its turns have times in, or most of them and it is much longer than
    one, is a recording, and the turns are its parts; a file with a single turn only if its conversation has no other
    file. Other files are clips. Lines are dropped if a required field is missing, a number is invalid, the file does
    not exist, the end is before the start, the turn was already given, its conversation is in another split, or its
    times are not within its recording.

    Raises:
        FileNotFoundError: if the folder has no `metadata.csv`.
        ValueError: for a table without a required column or without lines.
    """
    path = folder / METADATA_FILE
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file: give the folder that contains {METADATA_FILE} and the audio.")
    if not path.is_file():
        below = sorted(folder.glob(f"*/{METADATA_FILE}"))
        raise FileNotFoundError(f"{folder} has no {METADATA_FILE}{f'; {below[0].parent} has one' if below else ''}.")
    lines = read_table(path, _COLUMNS, required=REQUIRED_COLUMNS, numbers=(*_TIMES, *DIMENSIONS))
    if not lines:
        raise ValueError(f"{path} has no turns.")
    turns: dict[tuple[str, int | None], Turn] = {}
    places, problems = {}, []
    splits: dict[str, str] = {}
    for line, row in lines:
        try:
            turn = _as_turn(row, folder.resolve())
            _check_place(turn, turns, splits)
        except ValueError as error:
            problems.append(Problem("unreadable", str(path), f"line {line}: {error}"))
            continue
        turns[turn.conversation_id, turn.turn_index] = turn
        places[turn.conversation_id, turn.turn_index] = f"line {line}"
    problems += resolve_files(turns.values())
    for name, turn in list(turns.items()):
        if not os.path.isfile(turn.audio):
            detail = (
                f"{places[name]}: no audio file {os.path.relpath(turn.audio, folder.resolve())!r:.300} in {folder}"
            )
            problems.append(Problem("missing", str(path), detail, turn.group, *name))
            del turns[name]
    problems += _take_parts(turns, places, path)
    return list(turns.values()), problems


def _take_parts(turns: dict[tuple[str, int | None], Turn], places: Mapping, table: Path) -> list[Problem]:
    """Make the turns of recordings parts of them, and remove those that are not within; other turns are whole files.

    A warning says if turns of one conversation, or turns much shorter than their file, are all of it.

    Returns:
        a problem for each removed turn.
    """
    sharing: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    files: dict[str, set[str]] = defaultdict(set)
    for name, turn in turns.items():
        sharing[turn.audio].append(name)
        files[turn.conversation_id].add(turn.audio)
    problems = []
    for file, names in sharing.items():
        times = {}
        for name in names:
            start, end = turns[name].start, turns[name].end
            if start is not None and end is not None:
                times[name] = start, end
        spans, has_all = [*times.values()], len(times) == len(names)
        conversations = {conversation for conversation, _ in names}
        # Clips often have the times of their conversation, which has several of them.
        if len(names) == 1 and (not has_all or len(files[names[0][0]]) > 1):
            continue
        try:
            total = audio_seconds(file)
        except (AudioDecodingError, OSError):
            continue  # reported when all files are inspected
        if has_all and _is_recording(spans, total):
            for name, (start, end) in times.items():
                if _is_within((start, end), total):
                    turns[name].audio = part_of_file(file, max(0.0, start), min(end, total))
                else:
                    detail = f"{places[name]}: {start:g} to {end:g} s is not within its file of {total:.1f} s"
                    problems.append(Problem("unreadable", str(table), detail, turns.pop(name).group, *name))
        elif not _are_clips(spans, total, has_all=has_all, once_each=len(conversations) == len(names)):
            which = "a turn has the file" if len(names) == 1 else f"{len(names)} turns have the same file"
            warnings.warn(
                f"{table}: {which} {os.path.basename(file)!r:.200} of {total:.1f} s, and each is all of it: give "
                "start and end in the file, in seconds, of turns that are parts of it.",
                stacklevel=4,
            )
    return problems


def _is_within(span: tuple[float, float], total: float) -> bool:
    """Whether a span is a part of a file of `total` seconds, up to what programs round."""
    return span[0] < total and span[1] <= total + END_TOLERANCE


def _is_recording(spans: Sequence[tuple[float, float]], total: float) -> bool:
    """Whether a file contains turns with these times: most of them if it is much longer than one, else all."""
    within = sum(_is_within(span, total) for span in spans)
    if any(is_much_longer(total, *span) for span in spans):
        return within > len(spans) / 2
    return len(spans) > 1 and within == len(spans)


def _are_clips(spans: Sequence[tuple[float, float]], total: float, *, has_all: bool, once_each: bool) -> bool:
    """Whether turns may be all of their file: in a conversation each, or with times as long as the file.

    Args:
        spans: the known times of the turns, which are not those of a recording.
        total: length of the file, in seconds.
        has_all: whether these are the times of all turns.
        once_each: whether no conversation has the file twice.
    """
    if has_all and all(abs(end - start - total) <= _ROUNDING for start, end in spans):
        return True
    return once_each and not any(is_much_longer(total, *span) for span in spans)


def _check_place(turn: Turn, turns: dict[tuple[str, int | None], Turn], splits: dict[str, str]) -> None:
    """Raise ValueError if the turn was already given, or its conversation is in another split."""
    name, group = turn.conversation_id, splits.setdefault(turn.conversation_id, turn.group)
    if (name, turn.turn_index) in turns:
        raise ValueError(f"conversation {name!r} already has turn {turn.turn_index}.")
    if group != turn.group:
        raise ValueError(f"conversation {name!r} is in the splits {group!r} and {turn.group!r}.")


def _as_turn(row: dict, folder: Path) -> Turn:
    check_field_count(row)
    row = {name: given_text(value) for name, value in row.items()}
    for name in ("file_name", "conversation_id"):
        if not row[name]:
            raise ValueError(f"{name} is empty.")
    if bool(row.get("start")) != bool(row.get("end")):
        raise ValueError("only one of start and end is given: give both.")
    start, end = (_number(row, name) if row.get(name) else None for name in _TIMES)
    check_span(start, end)
    turn_index = whole_turn_index(row["turn_index"])
    return Turn(
        row["conversation_id"],
        row["speaker"] or None,
        path_of(folder, row["file_name"]),
        words=(row["emotion"],) if row.get("emotion") else (),
        votes=tuple((vote.strip(),) for vote in row.get("votes", "").split(";") if vote.strip()),
        start=start,
        end=end,
        transcript=row.get("transcript") or None,
        group=row.get("split") or "test",
        order=(turn_index,),
        turn_index=turn_index,
        more={name: _rating(row, name) for name in DIMENSIONS} | {name: row.get(name) or None for name in GROUPS},
    )


def path_of(folder: Path, name: str) -> str:
    """The path of a file that a table in the folder names."""
    path = os.path.normpath(folder / name)
    return path if os.path.exists(path) else os.path.normpath(folder / name.replace("\\", "/"))  # written on Windows


def _rating(row: dict, name: str) -> float | None:
    text = row.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a number, or empty if unknown, got {text!r}.")
    return value


def _number(row: dict, name: str) -> float:
    try:
        return parse_seconds(row[name])
    except ValueError:
        raise ValueError(f"{name} must be a number, got {row[name]!r}.") from None
