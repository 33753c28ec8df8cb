"""Names, labels and values that come from elsewhere, as text in the formats that would take them for more."""

from __future__ import annotations


# What spreadsheets take for the beginning of a formula, in either width, or skip before one.
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKDOWN = (("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\("), ("<", "&lt;"))


def csv_cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula: text that looks like one begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # which the writer would not quote
    return f"'{value}" if value.startswith(_FORMULA) else value


def markdown_text(value: object) -> str:
    """A value as text in one line of Markdown: it ends no cell, and makes no link, no picture and no HTML."""
    text = " ".join(str(value).split())
    for special, harmless in _MARKDOWN:
        text = text.replace(special, harmless)
    return text
