"""Which label a generated answer names."""

import pytest

from titans_mal.evaluation.answer_parsing import parse_label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("happy", 0),
        ("Happy.", 0),
        ("The speaker seems HAPPY!", 0),
        ("The speaker is very sad", 1),
        ("happy, very happy", 0),
        ("happy or sad", -1),
        ("unhappy", -1),
        ("joyful", -1),
        ("", -1),
        ("no emotion", 2),
        ("emotion", -1),
        ("not happy", -1),
        ("not happy but sad", 1),
        ("Non-neutral", 3),
        ("non_neutral!", 3),
        ("The speaker isn't happy", -1),
        ("She isn\u2019t happy, she is sad.", 1),
    ],
)
def test_answers_are_parsed(text, label):
    assert parse_label(text, ["happy", "sad", "no emotion", "non-neutral"]) == label


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("pleasant surprise", ["surprise", "pleasant surprise"], 1),
        ("a surprise", ["surprise", "pleasant surprise"], 0),
        ("surprise, a pleasant surprise", ["surprise", "pleasant surprise"], -1),
        ("\u8bf4\u8bdd\u4eba\u5f88\u9ad8\u5174\u3002", ["\u9ad8\u5174", "\u60b2\u4f24"], 0),
        ("\u4e0d\u9ad8\u5174", ["\u9ad8\u5174", "\u60b2\u4f24"], -1),
        ("\u4e0d\u662f\u9ad8\u5174", ["\u9ad8\u5174", "\u60b2\u4f24"], -1),
        ("\u6ca1\u6709\u9ad8\u5174", ["\u9ad8\u5174", "\u60b2\u4f24"], -1),
        ("\u30a2\u30f3\u30cf\u30c3\u30d4\u30fc", ["\u30cf\u30c3\u30d4\u30fc"], -1),
        ("\u559c\u3073\u3067\u306f\u306a\u3044", ["\u559c\u3073"], -1),
        ("\u559c\u3073\u3067\u3059", ["\u559c\u3073"], 0),
        ("", ["\U0001f600"], -1),
        ("It is \U0001f600!", ["\U0001f600", "\U0001f622"], 0),
    ],
)
def test_answers_with_other_labels_are_parsed(text, labels, label):
    assert parse_label(text, labels) == label
