"""Escape untrusted names, labels and values for places where they could act as formulas, markup or commands."""

from __future__ import annotations

import re


# What a spreadsheet takes for a formula: a character (also full width) behind spaces and invisible characters, and
# others that are skipped before one; or the same behind a mark that many spreadsheets take for a separator.
_BEGIN = "[\\s\\u200b-\\u200d\\u2060\\ufeff]*[=+@\\uff1d\\uff0b\\uff0d\\uff20-]"
_FORMULA, _AFTER_SEPARATOR = re.compile(f"{_BEGIN}|[\\t\\n]"), re.compile(f"(?:;|(?<=.)\\t)(?={_BEGIN})")
# Control characters but for the tab and the end of a line.
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
# Characters that act in Markdown, wherever they are: "_" not between letters, "&" as the start of an entity.
_MARKDOWN = re.compile(r"[\\|`*~$<]|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
_ENTITIES = {"<": "&lt;", "&": "&amp;"}
# What begins a heading, a quote, a list, a rule, a table or the definition of a link at the start of a line.
_BLOCK = re.compile(r"\d+(?=[.)])|(?=[#>+=:\[-])")


def encodable(text: str) -> str:
    """Text that can be written as UTF-8: bytes of a file name that are not become escapes, which JSON can read."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """Escape text for a terminal: control characters, which could act as commands, and characters not in UTF-8."""
    return encodable(_CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text))


def csv_cell(value: object) -> object:
    """Escape a value for CSV: text that looks like a formula, or a part that does, gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # the csv writer does not quote a bare \r
    value = _AFTER_SEPARATOR.sub(lambda found: f"{found[0]}'", value)
    return f"'{value}" if value != "-" and _FORMULA.match(value) else value


def markdown_text(value: object) -> str:
    """Escape a value as one line of Markdown text: it cannot end a table cell or form a link, image, HTML or formula.

    At the start of a line, use `markdown_item`.
    """
    return _MARKDOWN.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), " ".join(str(value).split()))


def markdown_item(value: object) -> str:
    """A line of a Markdown list: a value as `markdown_text`, which cannot begin another block either."""
    text = markdown_text(value)
    start = _BLOCK.match(text)
    return f"- {text}" if start is None else f"- {text[: start.end()]}\\{text[start.end() :]}"
