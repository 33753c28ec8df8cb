"""Text and tables as programs write them."""

import pytest

from titans_mal.data.text_files import parse_seconds, read_table, read_text


COLUMNS = {"start": ("begin", "start_time"), "speaker": (), "text": ("utterance",)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_text_in_the_usual_encodings(tmp_path, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes("Zoë said “no”".encode(encoding))
    assert read_text(file) == "Zoë said “no”"


def test_what_is_no_text_is_rejected(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"a\x81\x8d")
    with pytest.raises(ValueError, match=r"a\.txt is no"):
        read_text(file)
    assert read_text(file, errors="ignore") == "a"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_by_our_names_of_its_columns(tmp_path, separator):
    file = tmp_path / "a.csv"
    lines = (("Begin", "Speaker", "Note"), ("1.5", "A", "x"), (), ("2", "B", "y", "z"), ("3",))
    file.write_text("\n".join(map(separator.join, lines)))
    rows = read_table(file, COLUMNS, required=("start",), numbers=("start",))
    assert [line for line, _ in rows] == [2, 4, 5]
    assert rows[0][1] == {"start": "1.5", "speaker": "A", "Note": "x"}
    assert rows[1][1][None] == ["z"]
    assert rows[2][1] == {"start": "3", "speaker": None, "Note": None}


def test_decimal_commas_where_commas_do_not_separate(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("start;text\n1,5;a,b\n")
    assert read_table(file, COLUMNS, required=("start",), numbers=("start",)) == [(2, {"start": "1.5", "text": "a,b"})]


def test_our_own_name_of_a_column_comes_before_its_others(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("text,utterance\na,b\n")
    assert read_table(file, COLUMNS, required=("text",)) == [(2, {"text": "a", "utterance": "b"})]


@pytest.mark.parametrize(("header", "match"), [("speaker", "lacks.*start"), ("begin,start time", "more than once")])
def test_columns_that_are_missing_or_there_twice(tmp_path, header, match):
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\n1,2\n")
    with pytest.raises(ValueError, match=match):
        read_table(file, COLUMNS, required=("start",))


@pytest.mark.parametrize(("value", "seconds"), [("1.5", 1.5), (2, 2.0), ("0:01:02.5", 62.5)])
def test_seconds(value, seconds):
    assert parse_seconds(value) == seconds


@pytest.mark.parametrize("value", ["", "a", None, True, "nan", "inf", "1:2:3:4"])
def test_what_is_no_time(value):
    with pytest.raises(ValueError, match="time"):
        parse_seconds(value)
