"""Identity with the host, attaching and detaching, and what hooks must get right."""

import copy

import pytest
import torch
from tiny_models import host_of, stir, tiny_host, tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache, TitansMemoryConfig
from titans_mal.modeling import neural_memory
from titans_mal.modeling.memory_injection import attach_memory, detach_memory


GENERATE = {"max_new_tokens": 6, "do_sample": False}


def assert_identical(model, host, cache=None):
    """Logits, hidden states and generated text, bit for bit."""
    turns = tiny_turns(3)
    ours = model(**turns, memory_cache=cache, output_hidden_states=True)
    theirs = host(**turns, output_hidden_states=True)
    assert torch.equal(ours.logits, theirs.logits)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 5
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, theirs.hidden_states))
    assert torch.equal(model.generate(**turns, memory_cache=cache, **GENERATE), host.generate(**turns, **GENERATE))


@pytest.mark.parametrize("memory", [{}, {"read": "chunk"}, {"depth": 1}, {"layers": [0, 1, 2]}])
@torch.no_grad()
def test_a_fresh_memory_leaves_the_host_as_it_is(memory):
    model = tiny_model(memory, fresh=True)
    host, cache = host_of(model), ConversationMemoryCache(model.config, batch_size=3)
    assert_identical(model, host)
    for _ in range(2):
        assert_identical(model, host, cache)
    assert cache.turns.tolist() == [4, 4, 4]


@torch.no_grad()
def test_disabled_memory_is_the_host_after_training_too():
    model = tiny_model()
    host, cache = host_of(model), ConversationMemoryCache(model.config, batch_size=3)
    model(**tiny_turns(3), memory_cache=cache)
    before = cache.clone()
    with model.disable_memory():
        assert model.is_memory_disabled
        with model.disable_memory():
            pass
        assert_identical(model, host, cache)
        output = model(**tiny_turns(3), memory_cache=cache)
        assert output.memory_surprise is None
        assert output.emotion_logits.shape == (3, 4)
        # The host takes embeddings alone; memory could not find the audio in them.
        embeddings = torch.randn(1, 4, 32)
        assert torch.equal(model(inputs_embeds=embeddings).logits, host(inputs_embeds=embeddings).logits)
    assert not model.is_memory_disabled
    assert torch.equal(cache.layers[0].weights[0], before.layers[0].weights[0])
    assert not torch.equal(model(**tiny_turns(3), memory_cache=cache).logits, host(**tiny_turns(3)).logits)
    with pytest.raises(ValueError, match=r"Memory needs input_ids to find the audio: use disable_memory\(\)"):
        model(inputs_embeds=embeddings)


@torch.no_grad()
def test_hidden_states_show_the_residual_at_audio_positions_only():
    model, turns = tiny_model({"layers": [1]}), tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=cache)
    ours = model(**turns, memory_cache=cache, output_hidden_states=True).hidden_states
    theirs = host_of(model)(**turns, output_hidden_states=True).hidden_states
    assert torch.equal(ours[1], theirs[1])  # before the block
    audio = turns["input_ids"] == model.audio_token_id
    assert torch.equal(ours[2][~audio], theirs[2][~audio])
    assert (ours[2][audio] != theirs[2][audio]).any(-1).all()


def test_attaching_and_detaching_leaves_the_host_as_it_was():
    host = tiny_host()
    with torch.no_grad():
        before = host(**tiny_turns(2)).logits
    keys, attributes = list(host.state_dict()), set(vars(host))
    hooks = [len(module._forward_hooks) for module in host.modules()]
    attach_memory(host, TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8))
    assert {key.split(".")[0] for key in set(host.state_dict()) - set(keys)} == {"titans_memory"}
    detach_memory(host)
    assert list(host.state_dict()) == keys
    assert set(vars(host)) == attributes
    assert [len(module._forward_hooks) for module in host.modules()] == hooks
    with torch.no_grad():
        assert torch.equal(host(**tiny_turns(2)).logits, before)
    with pytest.raises(ValueError, match="no memory to detach"):
        detach_memory(host)


def test_a_failed_attach_leaves_the_host_untouched(monkeypatch):
    host = tiny_host()

    def snapshot():
        return list(host.state_dict()), set(vars(host)), [len(module._forward_hooks) for module in host.modules()]

    before = snapshot()
    with pytest.raises(ValueError, match=r"memory_config\.layers \[4, 9\] do not exist: the host has blocks 0 to 3"):
        attach_memory(host, TitansMemoryConfig(layers=[1, 4, 9]))
    assert snapshot() == before

    # Even where registering the last hook fails.
    def fail(*args, **kwargs):
        raise RuntimeError("no hook here")

    monkeypatch.setattr(host.get_decoder(), "register_forward_hook", fail)
    before = snapshot()
    with pytest.raises(RuntimeError, match="no hook here"):
        attach_memory(host, TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8))
    assert snapshot() == before


def test_a_layer_without_effect_is_reported(caplog):
    attach_memory(tiny_host(), TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8))
    assert not caplog.records
    attach_memory(tiny_host(), TitansMemoryConfig(layers=[0, 3], num_heads=2, head_dim=8))
    assert "layers [3]: a residual added after block 3 or later cannot influence" in caplog.text
    caplog.clear()
    attach_memory(tiny_host(), TitansMemoryConfig(layers=[0, 3], num_heads=2, head_dim=8), reads_audio=True)
    assert not caplog.records


def test_attaching_twice_is_rejected():
    host = tiny_host()
    attach_memory(host, TitansMemoryConfig(layers=[0], num_heads=2, head_dim=8))
    with pytest.raises(ValueError, match="already has a memory"):
        attach_memory(host, TitansMemoryConfig(layers=[1]))


def test_a_missing_layer_is_rejected_when_the_model_is_created():
    with pytest.raises(ValueError, match=r"layers \[7\] do not exist: the host has blocks 0 to 3"):
        tiny_model({"layers": [0, 7]})


@torch.no_grad()
def test_memory_is_looked_up_when_it_is_called():
    model, turns = tiny_model(), tiny_turns(1)
    before = model(**turns).memory_surprise
    replacement = copy.deepcopy(model.titans_memory)
    stir(replacement)
    model.titans_memory = replacement
    assert not torch.equal(model(**turns).memory_surprise, before)


@torch.no_grad()
def test_a_deep_copy_has_a_memory_of_its_own():
    model, turns = tiny_model(), tiny_turns(1)
    before = model(**turns).memory_surprise
    twin = copy.deepcopy(model)
    assert torch.equal(twin(**turns).memory_surprise, before)
    stir(twin.titans_memory)
    assert not torch.equal(twin(**turns).memory_surprise, before)
    assert torch.equal(model(**turns).memory_surprise, before)


@torch.no_grad()
def test_a_processor_that_does_not_expand_placeholders_gets_a_clear_error():
    model, turns = tiny_model(), tiny_turns(1, frames=[40])
    ids = torch.tensor([[1, 10, model.audio_token_id, 11, 12]])
    with pytest.raises(ValueError, match=r"Use a processor that expands|do not match"):
        model(**dict(turns, input_ids=ids, attention_mask=torch.ones_like(ids)))


@torch.no_grad()
def test_a_copy_made_without_memory_has_it_again():
    model, turns = tiny_model(), tiny_turns(1)
    with model.disable_memory():
        twin = copy.deepcopy(model)
    assert torch.equal(twin(**turns).memory_surprise, model(**turns).memory_surprise)


@torch.no_grad()
def test_where_nothing_is_to_be_written_no_write_is_computed(monkeypatch):
    monkeypatch.setattr(
        neural_memory, "write_chunk", lambda *arguments, **options: pytest.fail("a write was computed")
    )
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=2)
    assert model(**tiny_turns(2), memory_cache=cache, update_memory=False).memory_surprise.isfinite().all()
    assert cache.turns.tolist() == [0, 0]
