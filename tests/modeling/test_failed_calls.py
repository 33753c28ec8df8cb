"""Whatever goes wrong in a call, the cache is bit for bit what it was before."""

import contextlib

import pytest
import torch
from tiny_models import assert_same_state, state_of, tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache


class Broken(Exception):
    pass


@contextlib.contextmanager
def failing(module, at_call=1):
    """The module's forward fails the `at_call`-th time."""
    calls = 0

    def fail(*args):
        nonlocal calls
        calls += 1
        if calls == at_call:
            raise Broken

    handle = module.register_forward_pre_hook(fail)
    yield
    handle.remove()


@pytest.fixture
def conversation():
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=3)
    with torch.no_grad():
        model(**tiny_turns(2), memory_cache=cache, conversation_ids=[1, 2])
    return model, cache


def assert_untouched(conversation, exception, call, match=None):
    """The call fails and changes nothing; the next one goes on as if it had not been."""
    model, cache = conversation
    before, untroubled = state_of(cache), cache.clone()
    with pytest.raises(exception, match=match), torch.no_grad():
        call(model, cache)
    assert_same_state(before, state_of(cache))
    with torch.no_grad():
        for each in (cache, untroubled):
            model(**tiny_turns(2, seed=8), memory_cache=each, conversation_ids=[2, 5])
    assert_same_state(state_of(untroubled), state_of(cache))


@pytest.mark.parametrize("ids", [[1, 2], [2, 3], [2, 2]])
@pytest.mark.parametrize("block", [1, 2])
def test_a_failure_in_a_later_block(conversation, block, ids):
    def call(model, cache):
        with failing(model.get_decoder().layers[block]):
            model(**tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=ids)

    assert_untouched(conversation, Broken, call)


def test_a_failure_in_the_output_head(conversation):
    def call(model, cache):
        with failing(model.lm_head):
            model(**tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=[2, 9])

    assert_untouched(conversation, Broken, call)


@pytest.mark.parametrize("labels", [[0, 4], [0], [0, 1, 2], [0.0, 1.0]])
def test_labels_that_do_not_fit(conversation, labels):
    def call(model, cache):
        ids = [2, 9]
        model(**tiny_turns(2), memory_cache=cache, conversation_ids=ids, emotion_labels=torch.tensor(labels))

    assert_untouched(conversation, ValueError, call, match="emotion_labels must be")


def test_more_conversations_than_rows(conversation):
    def call(model, cache):
        model(**tiny_turns(3), memory_cache=cache, conversation_ids=[7, 8, 2])

    assert_untouched(conversation, ValueError, call, match=r"batch_size=3 with 1 free rows")


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"use_cache": False}, {"num_beams": 2, "use_cache": False}])
@pytest.mark.parametrize("step", [2, 4])
def test_a_failure_while_decoding(conversation, step, mode):
    def call(model, cache):
        with failing(model.lm_head, at_call=step):
            model.generate(
                **tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=[2, 9], max_new_tokens=6, **mode
            )

    assert_untouched(conversation, Broken, call)


def test_a_failure_in_the_second_beam(conversation):
    def in_the_second_beam(input_ids, scores):
        if len(set(map(tuple, input_ids.tolist()))) > 2:  # two turns: a beam has parted from the other
            raise Broken
        return scores

    def call(model, cache):
        kwargs = {"num_beams": 2, "logits_processor": [in_the_second_beam], "max_new_tokens": 6}
        model.generate(**tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=[2, 9], **kwargs)

    assert_untouched(conversation, Broken, call)


def test_wrong_features(conversation):
    def call(model, cache):
        turns = tiny_turns(2)
        model(**dict(turns, input_features=turns["input_features"][:, :, :40]), memory_cache=cache,
              conversation_ids=[1, 2])  # fmt: skip

    assert_untouched(conversation, ValueError, call)


@contextlib.contextmanager
def breaking(module, row):
    """The module's output holds a NaN in one row."""

    def spoil(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[(row, -1, 0)[: hidden.dim()]] = torch.nan
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with module.register_forward_hook(spoil, prepend=True):
        yield


@pytest.fixture(params=["normalized", "paper"])
def of_each_rule(request):
    model = tiny_model({"step_rule": request.param})
    cache = ConversationMemoryCache(model.config, batch_size=3)
    with torch.no_grad():
        model(**tiny_turns(2), memory_cache=cache, conversation_ids=[1, 2])
    return model, cache


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("way", ["forward", "generate"])
def test_features_that_are_not_finite(of_each_rule, way, number):
    def call(model, cache):
        turns = tiny_turns(2)
        turns["input_features"][1, 3, 5] = number
        run = model if way == "forward" else model.generate
        run(
            **turns, memory_cache=cache, conversation_ids=[2, 9], **({} if way == "forward" else {"max_new_tokens": 2})
        )

    assert_untouched(of_each_rule, ValueError, call, match="input_features must be finite, but 1 of its")


@pytest.mark.parametrize(("block", "ids"), [(0, [1, 2]), (1, [2, 2]), (3, [2, 3])])
def test_a_turn_whose_numbers_are_not_finite(of_each_rule, block, ids):
    def call(model, cache):
        with breaking(model.get_decoder().layers[block], row=0):
            model(**tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=ids)

    assert_untouched(of_each_rule, ValueError, call, match="not finite")


def test_a_state_that_would_not_be_finite(conversation):
    def call(model, cache):
        with breaking(model.titans_memory.layers[1].value_proj, row=0):
            model(**tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=[9, 2])

    assert_untouched(conversation, ValueError, call, match="memory of conversation 9 would not be finite")


@pytest.mark.parametrize("readout", ["linear", None])
@pytest.mark.parametrize("way", ["forward", "generate"])
def test_values_that_would_not_be_finite(readout, way):
    """Of dimensions, with labels and without."""
    model = tiny_model(emotion_readout=readout, emotion_dimensions=["valence", "arousal"], label_token_ids=None)
    cache = ConversationMemoryCache(model.config, batch_size=3)
    with torch.no_grad():
        model(**tiny_turns(2), memory_cache=cache, conversation_ids=[1, 2])

    def call(model, cache):
        given = {} if way == "forward" else {"max_new_tokens": 2}
        with breaking(model.emotion_values_head, row=1):
            (model if way == "forward" else model.generate)(
                **tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=[2, 9], **given
            )

    assert_untouched((model, cache), ValueError, call, match=r"logits or values of rows \[1\] are not finite")


def test_training_skips_turns_that_are_not_finite():
    """Its processes wait for each other, and it skips such steps by itself."""
    model, turns = tiny_model().train(), tiny_turns(2, seed=4)
    cache, good = (ConversationMemoryCache(model.config, batch_size=2) for _ in range(2))
    for each in (cache, good):
        model(**tiny_turns(2), memory_cache=each)
    before = cache.snapshot()
    model(**turns, memory_cache=good)
    with breaking(model.titans_memory.layers[0].key_proj, row=1):
        model(**turns, memory_cache=cache)
    assert cache.turns.tolist() == [2, 1]
    for layer, untroubled, old in zip(cache.layers, good.layers, before.layers):
        for tensor, wanted, kept in zip(*(each.weights + each.momentum for each in (layer, untroubled, old))):
            assert torch.equal(tensor[0], wanted[0])
            assert torch.equal(tensor[1], kept[1])


def test_an_invalid_return_dict(conversation):
    def call(model, cache):
        turns = tiny_turns(2)
        model(**turns, memory_cache=cache, conversation_ids=[1, 2], return_dict=torch.ones(2))

    assert_untouched(conversation, TypeError, call, match="return_dict must be True, False or None, got Tensor")


@pytest.mark.parametrize("value", ["no", "", 0, None])
@pytest.mark.parametrize("way", ["forward", "generate"])
def test_an_update_memory_that_is_neither_true_nor_false(conversation, way, value):
    def call(model, cache):
        getattr(model, way)(**tiny_turns(2), memory_cache=cache, conversation_ids=[1, 2], update_memory=value)

    assert_untouched(conversation, ValueError, call, match="update_memory must be True or False, got")


def test_a_wrong_keyword_of_generate(conversation):
    def call(model, cache):
        model.generate(**tiny_turns(2), memory_cache=cache, conversation_ids=[2, 9], no_such_argument=1)

    assert_untouched(conversation, ValueError, call, match="no_such_argument")


@pytest.mark.parametrize("ids", [[1, 2], [2, 3]])
def test_a_failure_in_the_middle_of_the_commit(conversation, monkeypatch, ids):
    update, calls = ConversationMemoryCache.update, []

    def out_of_memory(self, state, layer_idx, streams=None):
        calls.append(layer_idx)
        if layer_idx == 1:
            raise torch.OutOfMemoryError
        return update(self, state, layer_idx, streams)

    def call(model, cache):
        with monkeypatch.context() as patch:
            patch.setattr(ConversationMemoryCache, "update", out_of_memory)
            model(**tiny_turns(2, seed=4), memory_cache=cache, conversation_ids=ids)

    assert_untouched(conversation, torch.OutOfMemoryError, call)
    assert calls == [0, 1]


@pytest.mark.parametrize("with_ids", [True, False])
def test_embeddings_in_place_of_ids(conversation, with_ids):
    def call(model, cache):
        turns = tiny_turns(2)
        embeddings = model.get_input_embeddings()(turns["input_ids"])
        turns = turns if with_ids else {"attention_mask": turns["attention_mask"]}
        model.generate(
            **turns, inputs_embeds=embeddings, memory_cache=cache, conversation_ids=[1, 2], max_new_tokens=2
        )

    assert_untouched(conversation, ValueError, call, match="Memory needs input_ids")
