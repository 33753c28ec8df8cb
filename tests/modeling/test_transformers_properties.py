"""What transformers' own common tests ask of its models, of every host with the memory off and on.

After `ModelTesterMixin` and `GenerationTesterMixin` of transformers' test suite, which is not part of its package.
"""

import contextlib
import copy
import pickle

import pytest
import torch
from common_host_tester import skip_where_the_host_cannot
from tiny_hosts import HOSTS, PAD

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.audio_emotion_output import HOST_CACHE


GREEDY = {"do_sample": False, "pad_token_id": PAD}


@pytest.fixture(params=HOSTS)
def host(request):
    return HOSTS[request.param]


@pytest.fixture(params=["memory off", "memory on"])
def memory_of(request, host):
    """`(model) -> keywords` of a conversation with history; or the model without its memory, for the test."""
    with contextlib.ExitStack() as stack:

        def keywords(model) -> dict:
            if request.param == "memory off":
                stack.enter_context(model.disable_memory())
                return {}
            cache = ConversationMemoryCache(model.config, batch_size=2)
            with torch.no_grad():
                model.eval()(**host.turns(2, seed=7), memory_cache=cache)
            return {"memory_cache": cache, "update_memory": False}

        yield keywords


@torch.no_grad()
def test_determinism(host, memory_of):
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    assert torch.equal(model(**turns, **memory).logits, model(**turns, **memory).logits)


@torch.no_grad()
def test_a_tuple_holds_what_the_output_holds(host, memory_of):
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    output, values = model(**turns, **memory), model(**turns, **memory, return_dict=False)
    assert isinstance(values, tuple)
    assert len(values) == len(output.to_tuple())
    assert any(torch.is_tensor(value) and torch.equal(value, output.emotion_logits) for value in values)


@torch.no_grad()
def test_an_output_can_be_pickled(host):
    output = host.model()(**host.turns(1), use_cache=False)
    again = pickle.loads(pickle.dumps(output))
    assert type(again) is type(output)
    assert torch.equal(again.emotion_logits, output.emotion_logits)


@torch.no_grad()
def test_attentions_and_hidden_states_are_given(host, memory_of):
    model, turns = host.model(attn_implementation="eager"), host.turns(2)
    output = model(**turns, **memory_of(model), output_attentions=True, output_hidden_states=True)
    blocks, length = len(model.get_decoder().layers), turns["input_ids"].shape[1]
    assert len(output.hidden_states) == blocks + 1
    assert len(output.attentions) == blocks
    assert all(attention.shape[-2:] == (length, length) for attention in output.attentions)


def test_hidden_states_and_attentions_keep_their_gradients(host, memory_of):
    model, turns = host.model(attn_implementation="eager"), host.turns(2)
    memory = memory_of(model)
    output = model(**turns, **memory, output_attentions=True, output_hidden_states=True, use_cache=False)
    states, attention = output.hidden_states[0], output.attentions[0]
    states.retain_grad()
    attention.retain_grad()
    output.logits[..., -1].sum().backward()
    assert states.grad is not None
    assert attention.grad is not None


@torch.no_grad()
def test_eager_and_sdpa_attention_agree(host, memory_of):
    skip_where_the_host_cannot(host, "sdpa attention")
    turns, logits = host.turns(2), []
    for implementation in ("eager", "sdpa"):
        model = host.model(attn_implementation=implementation)
        assert model.get_decoder().config._attn_implementation == implementation
        logits.append(model(**turns, **memory_of(model)).emotion_logits)
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_token_embeddings_can_be_resized(host, memory_of):
    model, turns = host.model(), host.turns(2)
    before = model(**turns, **memory_of(model)).emotion_logits
    size = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size + 8)
    after = model(**turns, **memory_of(model))
    assert model.get_input_embeddings().num_embeddings == size + 8
    assert after.logits.shape[-1] == size + 8
    torch.testing.assert_close(after.emotion_logits, before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_prefill_and_decoding_step_by_step_equal_one_pass(host, memory_of):
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    kwargs = {"max_new_tokens": 4, "min_new_tokens": 4, "suppress_tokens": [host.audio, PAD], **GREEDY}
    generated = model.generate(**turns, **memory, **kwargs, return_dict_in_generate=True, output_logits=True)
    ids = generated.sequences
    grown = ids.shape[1] - turns["input_ids"].shape[1]
    mask = torch.cat([turns["attention_mask"], torch.ones_like(ids[:, -grown:])], dim=1)
    logits = model(**{**turns, "input_ids": ids, "attention_mask": mask}, **memory).logits
    steps = torch.stack(generated.logits, dim=1)
    torch.testing.assert_close(steps, logits[:, -grown - 1 : -1].float(), rtol=0, atol=1e-4)


@torch.no_grad()
def test_generation_continues_from_an_earlier_key_value_cache(host, memory_of):
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    kwargs = {**GREEDY, "suppress_tokens": [host.audio, PAD], "return_dict_in_generate": True}
    whole = model.generate(**turns, **memory, max_new_tokens=4, min_new_tokens=4, **kwargs).sequences
    first = model.generate(**turns, **memory, max_new_tokens=2, min_new_tokens=2, **kwargs)
    ids = first.sequences
    mask = torch.cat([turns["attention_mask"], ids.new_ones(2, ids.shape[1] - turns["input_ids"].shape[1])], dim=1)
    # The audio was processed; only its keys and values are needed now.
    rest = model.generate(
        input_ids=ids, attention_mask=mask, **{HOST_CACHE: first[HOST_CACHE]}, **memory, max_new_tokens=2,
        min_new_tokens=2, **kwargs,
    )  # fmt: skip
    assert torch.equal(rest.sequences, whole)


@torch.no_grad()
def test_a_dictionary_of_everything_is_generated(host, memory_of):
    model, turns = host.model(attn_implementation="eager"), host.turns(2)
    generated = model.generate(
        **turns, **memory_of(model), max_new_tokens=3, min_new_tokens=3, output_scores=True, output_attentions=True,
        output_hidden_states=True, return_dict_in_generate=True, suppress_tokens=[host.audio, PAD], **GREEDY,
    )  # fmt: skip
    assert len(generated.scores) == len(generated.attentions) == len(generated.hidden_states) == 3
    assert len(generated.hidden_states[0]) == len(model.get_decoder().layers) + 1


@pytest.mark.parametrize("beams", [1, 2])
@torch.no_grad()
def test_with_a_key_value_cache_and_without_the_text_is_the_same(host, memory_of, beams):
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    kwargs = {"max_new_tokens": 3, "num_beams": beams, "suppress_tokens": [host.audio, PAD], **GREEDY}
    assert torch.equal(
        model.generate(**turns, **memory, **kwargs), model.generate(**turns, **memory, **kwargs, use_cache=False)
    )


def test_every_trainable_parameter_gets_a_gradient(host, memory_of):
    """Of the language model and the memory, from the text loss."""
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    words = turns["input_ids"].masked_fill(turns["attention_mask"] == 0, -100)
    model.train()(**turns, **memory, labels=words, use_cache=False).loss.backward()
    decoder = {n: p for n, p in model.get_decoder().layers[1].named_parameters() if p.grad is not None}
    assert decoder
    assert all(parameter.grad.isfinite().all() for parameter in decoder.values())
    if memory:
        for name, parameter in model.titans_memory.layers[0].named_parameters():
            assert parameter.grad is not None or name.startswith(("key", "value", "write", "initial"))


@torch.no_grad()
def test_copies_are_independent_models(host, memory_of):
    model, turns = host.model(), host.turns(2)
    memory = memory_of(model)
    expected = model(**turns, **memory).logits
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**turns, **memory_of(twin)).logits, expected)
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(model(**turns, **memory).logits, expected)


def test_new_weights_are_initialised_whatever_was_in_memory(host):
    """None is left as `torch.empty` gave it, and the same seed gives the same weights."""
    weights = []
    for _ in range(2):
        model = host.model(fresh=True)
        weights.append(dict(model.titans_memory.named_parameters()))
    for name, weight in weights[0].items():
        assert weight.isfinite().all()
        assert weight.abs().max() < 20
        assert torch.equal(weight, weights[1][name])
