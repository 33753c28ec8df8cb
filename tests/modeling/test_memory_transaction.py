"""A call writes all turns of its streams or none."""

import pytest
import torch
from tiny_models import tiny_config

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.memory_state import NeuralMemoryState
from titans_mal.modeling.memory_transaction import MemoryTransaction


MEMORY = {"layers": [1], "num_heads": 2, "head_dim": 4, "depth": 1}


def cache_of(rows, **memory):
    return ConversationMemoryCache(tiny_config(MEMORY | memory), batch_size=rows)


def state_of_value(value, streams):
    tensor = torch.arange(streams).view(-1, 1, 1, 1).expand(-1, 2, 4, 4) + value
    return NeuralMemoryState((tensor.float(),), (-tensor.float(),))


def staged(transaction, value, *, tokens):
    """The transaction with a state that counts up from `value` by stream, in the transaction's order."""
    transaction.stage(0, state_of_value(value, (transaction.batch_sizes or [len(tokens)])[0]))
    transaction.stage_tokens(torch.tensor(tokens))
    return transaction


def test_turns_are_sorted_by_their_number_and_longer_conversations_come_first():
    transaction = MemoryTransaction(cache_of(3), 6, conversation_ids=[7, 5, 5, 9, 5, 9])
    assert transaction.batch_sizes == [3, 2, 1]
    assert transaction.row_order.tolist() == [1, 3, 0, 2, 5, 4]
    rows = torch.tensor([70, 50, 51, 90, 52, 91])
    ordered = transaction.turn_by_turn(rows)
    assert ordered.tolist() == [50, 90, 70, 51, 91, 52]
    assert torch.equal(transaction.row_by_row(ordered), rows)


@pytest.mark.parametrize("how", [{"conversation_ids": [1, 1], "write": False}, {"conversation_ids": [1, 2]}, {}])
def test_rows_that_do_not_see_each_other_keep_their_order(how):
    transaction = MemoryTransaction(cache_of(2), 2, **how)
    assert (transaction.row_order, transaction.batch_sizes) == (None, None)


def test_copies_of_a_row_stay_beside_it():
    transaction = MemoryTransaction(cache_of(2), 3, conversation_ids=[1, 2, 1])
    transaction.expand(2)
    assert transaction.row_order.tolist() == [0, 1, 2, 3, 4, 5]
    assert transaction.batch_sizes == [4, 2]
    transaction.prompt_audio = torch.tensor([[True, False]] * 3)
    assert transaction.audio_between(1, 2).tolist() == [[False, False]] * 6
    assert transaction.audio_between(0, 1).tolist() == [[True]] * 6


def test_nothing_is_written_before_the_commit():
    cache = cache_of(2)
    transaction = staged(
        MemoryTransaction(cache, 3, conversation_ids=[4, 6, 4], weights_fingerprint="w"), 3, tokens=[5, 0, 2]
    )
    assert (cache.is_initialized, cache.conversation_ids, cache.turns.tolist()) == (False, None, [0, 0])
    transaction.commit()
    assert cache.conversation_ids == {4: 0, 6: 1}
    # A turn without tokens is no turn.
    assert (cache.turns.tolist(), cache.tokens.tolist(), cache.weights_fingerprint) == ([2, 0], [7, 0], "w")
    assert cache.layers[0].weights[0][:, 0, 0, 0].tolist() == [3, 4]
    assert cache.layers[0].momentum[0][:, 0, 0, 0].tolist() == [-3, -4]


def test_the_second_of_two_calls_at_once_is_rejected():
    cache = cache_of(1)
    first, second = (staged(MemoryTransaction(cache, 1), value, tokens=[1]) for value in (1, 2))
    first.commit()
    with pytest.raises(RuntimeError, match="changed during this call"):
        second.commit()
    assert cache.layers[0].weights[0][0, 0, 0, 0] == 1


def test_a_state_that_is_not_finite_is_written_in_training_only_where_it_is():
    state = state_of_value(1, 2)
    state.momentum[0].data = torch.where(torch.arange(2).view(-1, 1, 1, 1) == 1, torch.nan, state.momentum[0])
    for is_training in (False, True):
        cache = cache_of(2)
        transaction = MemoryTransaction(cache, 2, conversation_ids=[8, 9], is_training=is_training)
        transaction.stage(0, state)
        transaction.stage_tokens(torch.tensor([3, 3]))
        if is_training:
            transaction.commit()
            assert (cache.turns.tolist(), cache.tokens.tolist()) == ([1, 0], [3, 0])
            assert cache.layers[0].weights[0][:, 0, 0, 0].tolist() == [1, 0]
        else:
            with pytest.raises(ValueError, match="The memory of conversation 9 would not be finite"):
                transaction.commit()
            assert not cache.is_initialized
    with pytest.raises(ValueError, match=r"logits or values of rows \[1\] are not finite"):
        MemoryTransaction(cache_of(2), 2).commit(torch.tensor([[0.0], [torch.inf]]))


def test_speakers_have_streams_of_their_own():
    cache = cache_of(2, scope="speaker", max_speakers=2)
    ids = {"conversation_ids": [3, 3, 3], "speaker_ids": [7, 8, 7]}
    transaction = staged(MemoryTransaction(cache, 3, **ids), 1, tokens=[1, 1, 1])
    assert (transaction.row_order.tolist(), transaction.batch_sizes) == ([0, 1, 2], [2, 1])
    transaction.commit()
    assert cache.speaker_ids == [{7: 0, 8: 1}, {}]
    assert cache.turns.tolist() == [2, 1, 0, 0]
