"""Escape untrusted names, labels and values for formats in which they could act as formulas or markup."""

from __future__ import annotations

import re


# A character that starts a formula in spreadsheets (also full width), behind spaces and invisible characters; and
# others that are skipped before one.
_FORMULA = re.compile("[\\s\\u200b-\\u200d\\u2060\\ufeff]*[=+@\\uff1d\\uff0b\\uff0d\\uff20-]|[\\t\\n]")
_MARKDOWN = (("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\("), ("<", "&lt;"))


def encodable(text: str) -> str:
    """Text that can be written as UTF-8: bytes of a file name that are not become escapes, which JSON can read."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def csv_cell(value: object) -> object:
    """Escape a value for CSV: text that looks like a formula gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # the csv writer does not quote a bare \r
    return f"'{value}" if value != "-" and _FORMULA.match(value) else value


def markdown_text(value: object) -> str:
    """Escape a value as one line of Markdown text: it cannot end a table cell or form a link, image or HTML."""
    text = " ".join(str(value).split())
    for special, harmless in _MARKDOWN:
        text = text.replace(special, harmless)
    return text
