"""Turns of conversations: one after the other, all at once, in any batch, and always the same numbers."""

import pytest
import torch
from tiny_models import rows_of, tiny_model, tiny_turns, unpadded

from titans_mal import ConversationMemoryCache


CLOSE = {"rtol": 0, "atol": 1e-5}


def ragged_conversations(lengths, seed=0):
    """Ids of a batch that mixes conversations of these numbers of turns, and the speaker of each turn."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    ids = ids[torch.randperm(len(ids), generator=generator)]
    return ids, torch.randint(0, 3, (len(ids),), generator=generator)


def assert_rows_equal(batch, single, row):
    torch.testing.assert_close(batch.emotion_logits[[row]], single.emotion_logits, **CLOSE)
    torch.testing.assert_close(batch.memory_surprise[[row]], single.memory_surprise, **CLOSE)


def assert_states_equal(one, other, **tolerance):
    assert torch.equal(one.turns, other.turns)
    assert torch.equal(one.tokens, other.tokens)
    for a, b in zip(one.layers, other.layers):
        for x, y in zip((*a.weights, *a.momentum), (*b.weights, *b.momentum)):
            torch.testing.assert_close(x, y, **(tolerance or CLOSE))


@pytest.mark.parametrize("memory", [{}, {"read": "chunk"}, {"scope": "speaker", "max_speakers": 3}, {"depth": 1}])
@torch.no_grad()
def test_streaming_equals_turn_parallel(memory):
    model = tiny_model(memory)
    ids, speakers = ragged_conversations([1, 4, 9, 2])
    turns = tiny_turns(len(ids))
    together = ConversationMemoryCache(model.config, batch_size=4)
    batch = model(**turns, memory_cache=together, conversation_ids=ids, speaker_ids=speakers)
    streamed = ConversationMemoryCache(model.config, batch_size=4)
    # Ids get their rows in the order in which they come.
    for row in range(len(ids)):
        single = model(
            **unpadded(turns, row),
            memory_cache=streamed,
            conversation_ids=ids[[row]],
            speaker_ids=speakers[[row]],
        )
        assert_rows_equal(batch, single, row)
        last = turns["attention_mask"][row].nonzero()[-1]
        torch.testing.assert_close(batch.logits[row, last], single.logits[0, [-1]], **CLOSE)
    assert together.conversation_ids == streamed.conversation_ids
    assert_states_equal(together, streamed)


@pytest.mark.parametrize("padding_side", ["left", "right"])
@torch.no_grad()
def test_padded_batches_equal_single_runs(padding_side):
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=4)
    singles = [ConversationMemoryCache(model.config) for _ in range(4)]
    for turn in range(3):
        turns = tiny_turns(4, seed=turn, padding_side=padding_side)
        batch = model(**turns, memory_cache=cache)
        for row in range(4):
            assert_rows_equal(batch, model(**unpadded(turns, row), memory_cache=singles[row]), row)
    assert_states_equal(cache, ConversationMemoryCache.stack(singles))


@torch.no_grad()
def test_memory_reaches_the_answer():
    """Otherwise all that is equal here would be equal for nothing."""
    model, turns = tiny_model(), tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    first = model(**turns, memory_cache=cache)
    second = model(**turns, memory_cache=cache)
    assert (first.emotion_logits - second.emotion_logits).abs().max() > 1e-2
    assert (second.memory_surprise < first.memory_surprise).all()


@pytest.mark.parametrize("read", ["history", "chunk"])
@torch.no_grad()
def test_a_turn_reads_the_same_whether_it_is_written_or_not(read):
    model = tiny_model({"read": read})
    cache = ConversationMemoryCache(model.config, batch_size=2)
    for seed in range(2):
        turns = tiny_turns(2, seed=seed)
        silent = model(**turns, memory_cache=cache, update_memory=False)
        assert cache.turns.tolist() == [seed, seed]
        written = model(**turns, memory_cache=cache)
        # Matrix products may differ in the last bit from call to call.
        torch.testing.assert_close(silent.emotion_logits, written.emotion_logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(silent.memory_surprise, written.memory_surprise, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_later_turn_changes_nothing_before_it():
    model, turns = tiny_model(), tiny_turns(6)
    ids = torch.zeros(6, dtype=torch.long)
    before = model(**turns, conversation_ids=ids)
    changed = dict(turns, input_features=turns["input_features"].clone())
    changed["input_features"][4] *= -2
    after = model(**changed, conversation_ids=ids)
    assert torch.equal(before.logits[:4], after.logits[:4])
    assert torch.equal(before.memory_surprise[:4], after.memory_surprise[:4])
    assert not torch.equal(before.logits[5], after.logits[5])


@torch.no_grad()
def test_another_conversation_changes_nothing():
    model, turns = tiny_model(), tiny_turns(6)
    ids = torch.tensor([5, 8, 5, 8, 5, 5])
    before = model(**turns, conversation_ids=ids)
    changed = dict(turns, input_features=turns["input_features"].clone())
    changed["input_features"][[1, 3]] *= -2
    after = model(**changed, conversation_ids=ids)
    mine = ids == 5
    assert torch.equal(before.logits[mine], after.logits[mine])
    assert not torch.equal(before.logits[~mine], after.logits[~mine])


@torch.no_grad()
def test_speakers_have_memories_of_their_own():
    model, turns = tiny_model({"scope": "speaker", "max_speakers": 2}), tiny_turns(4)
    ids = [0, 0, 0, 0]
    mixed = model(**turns, conversation_ids=ids, speaker_ids=[7, 9, 7, 9])
    alone = model(**rows_of(turns, [0, 2]), conversation_ids=[0, 0], speaker_ids=[7, 7])
    torch.testing.assert_close(mixed.emotion_logits[[0, 2]], alone.emotion_logits, **CLOSE)
    one = tiny_model({"scope": "speaker", "max_speakers": 1})
    with pytest.raises(ValueError, match="more than max_speakers=1 speakers"):
        one(**turns, conversation_ids=[0] * 4, speaker_ids=[5, 5, 6, 5])
    with pytest.raises(ValueError, match="more than max_speakers=2 speakers"):
        model(**turns, conversation_ids=ids, speaker_ids=[7, 9, 7, 11])
    with pytest.raises(ValueError, match=r"speaker_ids are needed: memory_config\.scope is 'speaker'"):
        model(**turns, conversation_ids=ids)


@torch.no_grad()
def test_ids_find_their_rows_in_any_order_and_number():
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=3)
    alone = {key: ConversationMemoryCache(model.config) for key in (40, -7, 12)}
    for call, ids in enumerate(([40, -7, 12], [12, 40], [-7], [12, -7, 40])):
        turns = tiny_turns(len(ids), seed=call)
        batch = model(**turns, memory_cache=cache, conversation_ids=torch.tensor(ids))
        for row, key in enumerate(ids):
            assert_rows_equal(batch, model(**unpadded(turns, row), memory_cache=alone[key]), row)
    assert cache.conversation_ids == {40: 0, -7: 1, 12: 2}
    assert cache.turns.tolist() == [3, 3, 3]


@torch.no_grad()
def test_a_new_id_takes_a_free_row():
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=3)
    model(**tiny_turns(2), memory_cache=cache, conversation_ids=[4, 5])
    model(**tiny_turns(2), memory_cache=cache, conversation_ids=[6, 4])
    assert cache.conversation_ids == {4: 0, 5: 1, 6: 2}
    with pytest.raises(ValueError, match=r"batch_size=3 with 0 free rows.* 1 new conversations"):
        model(**tiny_turns(2), memory_cache=cache, conversation_ids=[6, 7])
    cache.reset(rows=[1])
    fresh = model(**tiny_turns(1, seed=9), memory_cache=cache, conversation_ids=[7])
    assert cache.conversation_ids == {4: 0, 6: 2, 7: 1}
    torch.testing.assert_close(fresh.emotion_logits, model(**tiny_turns(1, seed=9)).emotion_logits, **CLOSE)


@torch.no_grad()
def test_reading_without_updating():
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=2)
    turns = tiny_turns(2)
    model(**turns, memory_cache=cache)
    frozen = cache.clone()
    read = model(**turns, memory_cache=cache, update_memory=False)
    assert_states_equal(cache, frozen, rtol=0, atol=0)
    written = model(**turns, memory_cache=cache)
    assert torch.equal(read.logits, written.logits)
    # Rows that do not write are not each other's history.
    twice = {name: torch.cat([tensor, tensor]) for name, tensor in turns.items()}
    ids_cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=ids_cache, conversation_ids=[0, 1])
    both = model(**twice, memory_cache=ids_cache, conversation_ids=[0, 1, 0, 1], update_memory=False)
    torch.testing.assert_close(both.logits[:2], both.logits[2:], **CLOSE)


@torch.no_grad()
def test_without_a_cache_a_call_remembers_nothing():
    model, turns = tiny_model(), tiny_turns(2)
    first, second = model(**turns), model(**turns)
    assert torch.equal(first.logits, second.logits)
    assert first.memory_cache is None


@torch.no_grad()
def test_a_state_from_inference_mode_can_be_continued():
    model, turns = tiny_model(), tiny_turns(1)
    cache = ConversationMemoryCache(model.config)
    with torch.inference_mode():
        model(**turns, memory_cache=cache)
    expected = ConversationMemoryCache(model.config)
    model(**turns, memory_cache=expected)
    with torch.enable_grad():
        output = model(**turns, memory_cache=cache, emotion_labels=torch.tensor([1]))
        output.loss.backward()
    torch.testing.assert_close(output.logits, model(**turns, memory_cache=expected).logits, **CLOSE)


@torch.no_grad()
def test_turns_without_audio_leave_the_memory():
    model, turns = tiny_model(), tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=cache)
    before = cache.clone()
    text = torch.randint(7, 20, (2, 5))
    output = model(input_ids=text, memory_cache=cache)
    assert output.emotion_logits is None
    assert output.memory_surprise is None
    assert_states_equal(cache, before, rtol=0, atol=0)
