"""Read the label from a generated answer."""

from __future__ import annotations

import re
from collections.abc import Sequence


# "isn't" is read as "is not".
_NOT = re.compile(r"n['\u2019]t\b")
# A run of katakana; one other Chinese or Japanese character; a word; an emoji.
_WORD = re.compile(
    r"[\u30a0-\u30ff]+|[\u3040-\u309f\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+"
    r"|[\u2600-\u27bf\U0001f000-\U0001faff]"
)
# Before a label, and in Japanese behind it.
_NEGATIONS = ("not", "不", "不是", "没", "没有", "非", "未")
_NEGATIONS_BEHIND = ("ではない", "ではありません", "じゃない", "くない")


def parse_label(text: str, labels: Sequence[str]) -> int:
    """The label named by an answer: the only label that occurs as a word, ignoring case; -1 otherwise.

    "Happy." and "The speaker is happy" name "happy"; "happy or sad", "not happy", "isn't happy", "unhappy" and
    "joyful" name none of (happy, sad). "pleasant surprise" does not name "surprise" if it is a label itself. Chinese
    and Japanese labels are found without spaces around them.
    """
    answer, named = _words(text), list[int]()
    words = [_words(label) for label in labels]
    for index in sorted(range(len(labels)), key=lambda index: -len(words[index])):
        word = words[index]
        if word.strip() and word in answer:
            negated = [_words(negation)[:-1] + word for negation in _NEGATIONS]
            negated += [word[:-1] + _words(negation) for negation in _NEGATIONS_BEHIND]
            if not any(phrase in answer for phrase in negated):
                named.append(index)
            answer = answer.replace(word, " / ")
    return named[0] if len(named) == 1 else -1


def _words(text: str) -> str:
    """Lower-case words separated by single spaces; other characters separate words."""
    return f" {' '.join(_WORD.findall(_NOT.sub(' not', text.lower())))} "
