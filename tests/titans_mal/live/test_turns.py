"""What is kept of the turns of a live conversation."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from titans_mal.live.turns import (
    TurnEmotion,
    answered_before,
    check_speaker,
    history_of,
    key_of_part,
    remember,
    start_after,
)


def make_turn(index, **fields):
    default = {
        "speaker": "A",
        "start": index,
        "end": index + 0.5,
        "label": "sad",
        "score": 0.9,
        "scores": {"sad": 1.0},
    }
    return TurnEmotion(index, **(default | {"surprise": 0.1, "latency": 0.0} | fields))


@pytest.fixture
def cache():
    return SimpleNamespace(notes={})


def test_what_is_remembered_is_the_history(cache):
    turns = [make_turn(0), make_turn(1, speaker=None, label=None, score=None, scores={}, values={"valence": 0.3})]
    for turn in turns:
        remember(cache, turn)
    assert history_of(cache) == turns
    assert "retry_keys" not in cache.notes


def test_notes_are_replaced_not_changed(cache):
    """A snapshot of the cache shares them."""
    remember(cache, make_turn(0), "a")
    before = {name: list(notes) for name, notes in cache.notes.items()}
    shared = dict(cache.notes)
    remember(cache, make_turn(1), "b")
    assert shared == before


def test_a_retry_key_finds_its_latest_turn_among_those_of_the_last_32_requests(cache):
    for index in range(40):
        remember(cache, make_turn(index), "repeated" if index in (20, 30) else f"key {index}")
    assert answered_before(cache, "repeated") == make_turn(30)
    assert answered_before(cache, "key 7") == make_turn(7)
    assert answered_before(cache, "key 6") is None
    assert answered_before(cache, None) is None


def test_keys_that_look_like_parts_are_requests_of_their_own(cache):
    for index in range(40):
        remember(cache, make_turn(index), f"{index}:call")
    assert answered_before(cache, "8:call") == make_turn(8)
    assert answered_before(cache, "7:call") is None


def test_all_parts_of_the_last_requests_are_found(cache):
    for index in range(40):
        remember(cache, make_turn(index), key_of_part("one file", index))
    assert answered_before(cache, key_of_part("one file", 0)) == make_turn(0)


@pytest.mark.parametrize(
    "noted",
    [
        {"turn_index": 0},
        asdict(make_turn(0)) | {"more": 1},
        asdict(make_turn(0)) | {"end": "late"},
        asdict(make_turn(0)) | {"scores": [1.0]},
        asdict(make_turn(0)) | {"scores": {"sad": float("nan")}},
        asdict(make_turn(0)) | {"end": float("inf")},
        7,
    ],
)
def test_a_history_that_cannot_be_read_says_so(cache, noted):
    cache.notes["turns"] = [noted]
    with pytest.raises(ValueError, match="history of a conversation cannot be read"):
        history_of(cache)


def test_a_turn_starts_where_the_one_before_it_ended_unless_its_start_is_given(cache):
    assert start_after(cache, None) == 0.0
    remember(cache, make_turn(3))
    assert start_after(cache, None) == 3.5
    assert start_after(cache, 7) == 7.0
    with pytest.raises(ValueError, match="start"):
        start_after(cache, float("nan"))


def test_a_speaker_has_a_name_or_none():
    check_speaker(None)
    check_speaker("A")
    for speaker in (7, "a" * 10_000, "\ud800"):
        with pytest.raises(ValueError, match="A speaker"):
            check_speaker(speaker)
