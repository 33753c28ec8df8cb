"""Read text and tables with the usual encodings, separators and spellings of column names."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path

from ..modeling.audio_headers import check_pointer
from .table import clock_seconds


_SEPARATORS = (",", ";", "\t", "|")


def read_text(path: str | Path, *, errors: str = "strict") -> str:
    """Read a file in UTF-8, UTF-16 or Windows-1252, without its byte order mark.

    Args:
        errors: handling of undecodable bytes, as for `bytes.decode`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a Git LFS pointer instead of the file, or undecodable bytes.
    """
    data = Path(path).read_bytes()
    check_pointer(data, str(path))
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16")
        # Without a mark, the zero byte of a first ASCII character shows the byte order.
        if 0 in data[:2]:
            return data.decode("utf-16-be" if data[0] == 0 else "utf-16-le")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return data.decode("cp1252", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8, UTF-16 or Windows-1252: {error}") from error


def read_table(
    path: str | Path, columns: Mapping[str, Sequence[str]], *, required: Sequence[str], numbers: Sequence[str] = ()
) -> list[tuple[int, dict]]:
    """Read a table with a header, separated by commas, semicolons, tabs or bars.

    Args:
        columns: our names, each with alternative names; capitals and blanks are ignored.
        required: our names of required columns.
        numbers: our names of numeric columns, where decimal commas are allowed if fields are not separated by commas.

    Returns:
        For each row that is not blank, its line in the file and its fields by our names; the key None holds fields
        beyond the header, and missing fields are None.

    Raises:
        FileNotFoundError, ValueError: as `read_text`; also for a missing or repeated column.
    """
    text = read_text(path)
    first, *more = [line for line in text.splitlines() if line.strip()] or [""]
    if is_separator_line := re.fullmatch(r"sep=.", first.strip()) is not None:  # of Excel
        first = more[0] if more else ""
    ours = _ours(columns)
    separator = max(_SEPARATORS, key=lambda mark: sum(_plain(name) in ours for name in first.split(mark)))
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator)
    try:
        filled = (row for row in reader if any(map(str.strip, row)))
        header = next(islice(filled, int(is_separator_line), None), [])
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    names = our_names(header, columns)
    repeated = sorted({name for name in names if names.count(name) > 1 and name})
    if repeated:
        raise ValueError(f"{path} has the columns {repeated!s:.500} more than once.")
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {header!s:.2000}.")
    with_commas = () if separator == "," else numbers
    return [(line, _fields(names, row, with_commas)) for line, row in rows]


def check_field_count(row: dict) -> None:
    """Raise ValueError if a row of `read_table` has more or fewer fields than the header."""
    if None in row or None in row.values():
        raise ValueError("the number of fields differs from that of the header.")


def our_names(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Our name of each column or field that has one; our own name comes before others, which then stay as they are."""
    ours, own = _ours(columns), {_plain(name) for name in names}.intersection(columns)
    found = [ours.get(_plain(name), name) for name in names]
    return [name if our in own and _plain(name) != our else our for name, our in zip(names, found)]


def parse_seconds(value) -> float:
    """A number of seconds, or h:mm:ss.

    Raises:
        ValueError: for anything else.
    """
    try:
        seconds = clock_seconds(value) if ":" in str(value) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or isinstance(value, bool):
        raise ValueError(f"a time must be a number of seconds or h:mm:ss, got {value!r:.100}.")
    return seconds


def _ours(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {other: name for name, others in columns.items() for other in (name, *others)}


def _plain(name: str) -> str:
    """A column's name in small letters, without the unit of seconds that it may end with."""
    plain = name.strip().strip('"').strip().lower().replace(" ", "_")
    return re.sub(r"_(s|secs?|seconds)$|_?[(\[](s|secs?|seconds)[)\]]$", "", plain)


def _fields(names: list[str], row: list[str], with_commas: Sequence[str]) -> dict:
    fields: dict = dict.fromkeys(names) | dict(zip(names, row))
    for name in with_commas:
        if fields.get(name):
            fields[name] = fields[name].replace(",", ".")
    # Ignore separators at the end of a line, which spreadsheets may write.
    beyond = [field for field in row[len(names) :] if field.strip()]
    return fields | ({None: beyond} if beyond else {})
