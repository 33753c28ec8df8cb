"""Names from outside, in formats in which they could act."""

import json

import pytest

from titans_mal.safe_text import csv_cell, encodable, markdown_item, markdown_text, printable


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@A", "\t=1", "\r=1", "\n=1", "\uff1d1", " =1", "\u200b=1", "\ufeff =1"]
)
def test_text_that_a_spreadsheet_would_compute_is_marked(text):
    cell = csv_cell(text)
    assert cell.startswith("'")
    assert cell[1:] == text.replace("\r", "\n")


def test_a_part_that_a_spreadsheet_would_compute_is_marked():
    """If it separates at semicolons and tabs, too."""
    assert csv_cell("A;=1+1; -2;b\t@c") == "A;'=1+1;' -2;b\t'@c"


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
        ("*a* ~~b~~", "\\*a\\* \\~\\~b\\~\\~"),
        ("_a_b_ __c__", "\\_a_b\\_ \\_\\_c\\_\\_"),
        ("$x^2$", "\\$x^2\\$"),
        ("&lt; &#60; R&D", "&amp;lt; &amp;#60; R&D"),
        (3, "3"),
    ],
)
def test_markdown_text_is_one_line_without_markup(text, line):
    assert markdown_text(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# a", "- \\# a"),
        ("- a", "- \\- a"),
        ("> a", "- \\> a"),
        ("[a]: http://b", "- \\[a]: http://b"),
        ("12. a", "- 12\\. a"),
        ("12:30 a", "- 12:30 a"),
        (" a\n# b", "- a # b"),
    ],
)
def test_an_item_of_a_list_begins_no_other_block(text, line):
    assert markdown_item(text) == line


def test_a_terminal_obeys_no_name():
    assert printable("\x1b[2Ja\rb\x9b\tü\n") == "\\x1b[2Ja\\x0db\\x9b\tü\n"
    assert printable(b"a\xff".decode("utf-8", "surrogateescape")) == "a\\udcff"
