"""Which conversation and stream of the cache each row of a call belongs to."""

import pytest
from tiny_models import tiny_config

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.call_rows import CallRows, schedule, turn_by_turn


def cache_of(rows, **memory):
    return ConversationMemoryCache(tiny_config({"layers": [1], **memory}), batch_size=rows)


def test_rows_get_the_conversations_and_streams_of_their_ids():
    cache = cache_of(3)
    assert CallRows(cache, 3).conversations == [0, 1, 2]
    rows = CallRows(cache, 4, conversation_ids=[7, 5, 7, 9])
    assert (rows.conversations, rows.streams) == ([0, 1, 0, 2], [0, 1, 0, 2])
    assert rows.conversation_ids == {7: 0, 5: 1, 9: 2}
    assert cache.conversation_ids is None
    assert [rows.name_of(stream) for stream in (0, 2)] == ["conversation 7", "conversation 9"]
    assert CallRows(cache, 3).name_of(1) == "row 1"


def test_each_speaker_of_a_conversation_has_a_stream():
    rows = CallRows(cache_of(2, scope="speaker", max_speakers=3), 4, [4, 4, 6, 4], [8, 9, 9, 8])
    assert (rows.conversations, rows.streams) == ([0, 0, 1, 0], [0, 1, 3, 0])
    assert rows.speaker_ids == [{8: 0, 9: 1}, {9: 0}]
    assert rows.name_of(1) == "conversation 4, speaker 1"


def test_turns_of_a_stream_follow_each_other_and_long_streams_come_first():
    assert turn_by_turn([2, 0, 0]) == [([1, 0], [0, 2]), ([2], [0])]
    streams, rows, sizes = schedule([2, 0, 0])
    assert (streams, rows.tolist(), sizes) == ([0, 2], [1, 0, 2], [2, 1])


@pytest.mark.parametrize("ids", [[1], [1.0, 2.0], [True, False], [[1, 2]], "ab"])
def test_ids_are_integers_one_a_row(ids):
    with pytest.raises(ValueError, match=r"conversation_ids must be \(2,\) integers"):
        CallRows(cache_of(2), 2, conversation_ids=ids)
