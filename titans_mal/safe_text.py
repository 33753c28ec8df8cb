"""Escape untrusted names, labels and values for formats in which they could act as formulas or markup."""

from __future__ import annotations


# Characters that start a formula in spreadsheets (also full width), or are skipped before one.
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKDOWN = (("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\("), ("<", "&lt;"))


def csv_cell(value: object) -> object:
    """Escape a value for CSV: text that looks like a formula gets a leading apostrophe."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # the csv writer does not quote a bare \r
    return f"'{value}" if value.startswith(_FORMULA) else value


def markdown_text(value: object) -> str:
    """Escape a value as one line of Markdown text: it cannot end a table cell or form a link, image or HTML."""
    text = " ".join(str(value).split())
    for special, harmless in _MARKDOWN:
        text = text.replace(special, harmless)
    return text
