"""Splits that are drawn."""

import pytest

from titans_mal.data.splits import check_split_options, draw_splits
from titans_mal.data.table import Turn


def talks(speakers_of: dict[str, str], turns: int = 5) -> list[Turn]:
    """Conversations of some turns, each letter a speaker."""
    return [
        Turn(name, speakers[number % len(speakers)], "a.wav")
        for name, speakers in speakers_of.items()
        for number in range(turns)
    ]


def drawn(turns: list[Turn], **options) -> dict[str, set[str]]:
    draw_splits(turns, **{"test_share": 0.2, "validation_share": None, "seed": 0, **options})
    return {split: {t.conversation_id for t in turns if t.group == split} for split in {t.group for t in turns}}


def test_by_conversation():
    names = {f"c{number}": "AB" for number in range(20)}
    splits = drawn(talks(names), by="conversation", validation_share=0.1)
    assert {split: len(found) for split, found in splits.items()} == {"train": 14, "test": 4, "validation": 2}
    assert not splits["train"] & (splits["test"] | splits["validation"])
    assert drawn(talks(names), by="conversation", validation_share=0.1) == splits
    assert drawn(talks(dict(reversed(names.items()))), by="conversation", validation_share=0.1) == splits
    assert drawn(talks(names), by="conversation", validation_share=0.1, seed=1) != splits


def test_by_speaker():
    # Speakers chain conversations: c0, c1 and c2 belong together; nobody joins none.
    names = {"c0": "AB", "c1": "BC", "c2": "CD", "c3": "E", "c4": "F", "c5": "GH", "c6": "H", "c7": "I"}
    turns = [*talks(names), Turn("c3", None, "a.wav"), Turn("c7", None, "a.wav")]
    for seed in range(10):
        splits = drawn(turns, by="speaker", test_share=0.3, seed=seed)
        speakers = {split: {speaker for name in found for speaker in names[name]} for split, found in splits.items()}
        assert not speakers["train"] & speakers["test"]
        for turn in turns:
            turn.group = "test"


def test_too_few_to_split():
    with pytest.raises(ValueError, match=r"split by speaker, the data has too few .* common speaker stay together"):
        drawn(talks({f"c{number}": "AB" for number in range(20)}), by="speaker")
    with pytest.raises(ValueError, match="split by conversation, the data has too few parts"):
        drawn(talks({"c0": "AB"}), by="conversation")
    turns = talks({"c0": "AB", "c1": "AB"})
    turns[0].group = "train"
    with pytest.raises(ValueError, match=r"data without splits, but this has \['test', 'train'\]"):
        drawn(turns, by="conversation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, 0.2, None), "need split_by"),
        (("turn", 0.2, None), "split_by must be one of"),
        (("speaker", None, None), "needs test_share, validation_share or both"),
        (("speaker", 0.0, None), "above 0 and together below 1"),
        (("speaker", 0.5, 0.5), "above 0 and together below 1"),
    ],
)
def test_options_without_splits(options, message):
    with pytest.raises(ValueError, match=message):
        check_split_options(*options)
