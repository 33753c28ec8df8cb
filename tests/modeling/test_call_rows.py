"""Which conversation and stream of the cache each row of a call belongs to."""

import pytest
from tiny_models import tiny_config

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.call_rows import CallRows, schedule, turns_of


def cache_of(rows, **memory):
    return ConversationMemoryCache(tiny_config({"layers": [1], **memory}), batch_size=rows)


def test_rows_get_the_conversations_and_streams_of_their_ids():
    cache = cache_of(3)
    assert CallRows(cache, 3).conversations == [0, 1, 2]
    rows = CallRows(cache, 4, conversation_ids=[7, 5, 7, 9])
    assert (rows.conversations, rows.streams) == ([0, 1, 0, 2], [0, 1, 0, 2])
    assert rows.conversation_ids == {7: 0, 5: 1, 9: 2}
    assert cache.conversation_ids is None
    assert [rows.stream_name(stream) for stream in (0, 2)] == ["conversation 7", "conversation 9"]
    assert CallRows(cache, 3).stream_name(1) == "row 1"


def test_each_speaker_of_a_conversation_has_a_stream():
    cache = cache_of(2, scope="speaker", max_speakers=3)
    rows = CallRows(cache, 4, conversation_ids=[4, 4, 6, 4], speaker_ids=[8, 9, 9, 8])
    assert (rows.conversations, rows.streams) == ([0, 0, 1, 0], [0, 1, 3, 0])
    assert rows.speaker_ids == [{8: 0, 9: 1}, {9: 0}]
    assert rows.stream_name(1) == "conversation 4, speaker 9"


def test_turns_of_a_stream_follow_each_other_and_long_streams_come_first():
    assert turns_of([2, 0, 0]) == [([1, 0], [0, 2]), ([2], [0])]
    streams, rows, sizes = schedule([2, 0, 0])
    assert (streams, rows.tolist(), sizes) == ([0, 2], [1, 0, 2], [2, 1])


@pytest.mark.parametrize("name", ["conversation_ids", "speaker_ids"])
@pytest.mark.parametrize("ids", [[1], [1.0, 2.0], [True, False], [[1, 2]], "ab"])
def test_ids_are_integers_one_a_row(ids, name):
    with pytest.raises(ValueError, match=rf"{name} must be \(2,\) integers"):
        CallRows(cache_of(2), 2, **{name: ids})


def test_a_cache_has_a_row_for_each_known_and_new_conversation():
    cache = cache_of(2)
    cache.conversation_ids = {5: 1}
    rows = CallRows(cache, 3, conversation_ids=[8, 5, 8])
    assert (rows.conversations, rows.conversation_ids) == ([0, 1, 0], {5: 1, 8: 0})
    with pytest.raises(ValueError, match="1 free rows, but conversation_ids name 2 new"):
        CallRows(cache, 3, conversation_ids=[5, 8, 9])


def test_a_cache_is_used_with_ids_or_without():
    cache = cache_of(2)
    with pytest.raises(ValueError, match="it has 1 rows and the cache has 2"):
        CallRows(cache, 1)
    cache.turns = cache.turns + 1
    with pytest.raises(ValueError, match="used without conversation_ids before"):
        CallRows(cache, 1, conversation_ids=[1])
    cache.conversation_ids = {5: 1}
    with pytest.raises(ValueError, match="used with conversation_ids before"):
        CallRows(cache, 2)


def test_a_conversation_has_a_limited_number_of_speakers():
    cache = cache_of(2, scope="speaker", max_speakers=2)
    cache.conversation_ids, cache.speaker_ids = {3: 0}, [{7: 0, 8: 1}, {}]
    with pytest.raises(ValueError, match=r"more than max_speakers=2 speakers: \[7, 8, 9\]"):
        CallRows(cache, 1, conversation_ids=[3], speaker_ids=[9])
    assert cache.speaker_ids == [{7: 0, 8: 1}, {}]
    with pytest.raises(ValueError, match="speaker_ids are needed"):
        CallRows(cache, 1, conversation_ids=[3])
    only = CallRows(cache_of(1, scope="speaker", max_speakers=1), 1, speaker_ids=[6])
    assert (only.streams, only.stream_name(0)) == ([0], "row 0, speaker 6")
