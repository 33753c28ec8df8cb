"""Names from outside, in formats in which they could act."""

import json

import pytest

from titans_mal.safe_text import csv_cell, encodable, markdown_text


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@A", "\t=1", "\r=1", "\n=1", "\uff1d1", " =1", "\u200b=1", "\ufeff =1"]
)
def test_text_that_a_spreadsheet_would_compute_is_marked(text):
    cell = csv_cell(text)
    assert cell.startswith("'")
    assert cell[1:] == text.replace("\r", "\n")


def test_names_of_files_that_are_not_utf8_can_be_written():
    name = b"a\xff".decode("utf-8", "surrogateescape")
    assert encodable(name) == "a\\udcff"
    assert json.loads(encodable(json.dumps(name, ensure_ascii=False))) == name
    assert encodable("späť 感") == "späť 感"


@pytest.mark.parametrize("value", ["happy", "1 + 1", "", -1.5, None])
def test_other_cells_are_left_as_they_are(value):
    assert csv_cell(value) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a|b", "a\\|b"),
        ("a\nb", "a b"),
        ("\\|", "\\\\\\|"),
        ("[a](b)", "[a]\\(b)"),
        ("<b>", "&lt;b>"),
        ("`a`", "\\`a\\`"),
        (3, "3"),
    ],
)
def test_markdown_text_is_one_line_without_markup(text, line):
    assert markdown_text(text) == line
