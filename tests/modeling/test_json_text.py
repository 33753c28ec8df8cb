"""JSON that comes from outside."""

import pytest

from titans_mal.modeling.json_text import MAX_DEPTH, parse_json, read_json


def nested(depth):
    return "[" * depth + "]" * depth


def test_json_of_any_kind():
    assert parse_json('{"a": [1]}') == {"a": [1]}
    assert parse_json(b"7") == 7
    assert parse_json(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("{", object, "The file is not valid JSON"),
        ("[]", dict, "The file must hold a JSON object, got list"),
        ("{}", list, "The file must hold a JSON list, got dict"),
        (nested(MAX_DEPTH + 1), object, "nested too deeply"),
        (nested(100_000), object, "nested too deeply"),
        (b"\xff\xfe\xfd", object, "not valid JSON"),
    ],
)
def test_other_texts_are_rejected(text, kind, match):
    with pytest.raises(ValueError, match=match):
        parse_json(text, "The file", kind)


def test_a_file_is_named_in_its_errors(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json", list) == [1]
    with pytest.raises(ValueError, match=r"a\.json must hold a JSON object"):
        read_json(tmp_path / "a.json", dict)
