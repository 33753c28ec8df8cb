"""How often a call reads values of tensors: on an accelerator, each read waits for all that was launched before."""

import sys
from collections import Counter

import pytest
import torch
from common_host_tester import assert_states_close
from tiny_models import tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache
from titans_mal.modeling import audio_emotion_mixin, call_rows, memory_transaction


# What these look at is on the CPU wherever the model is: ids, and turns before an accelerator has counted them.
ON_THE_CPU = {
    (memory_transaction.__name__, "__init__"),
    (call_rows.__name__, "_as_list"),
    (call_rows.__name__, "_find_conversations"),
}


@pytest.fixture
def looks(monkeypatch):
    """Counts of the looks since, by who looks; those of the host and of torch itself are left out."""
    counts = Counter()

    def counting(name, original):
        def look(self, *args, **kwargs):
            frame = sys._getframe(1)
            module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
            if module.startswith("titans_mal") and (module, function) not in ON_THE_CPU:
                counts[f"{module}.{function}"] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, look)

    for name in ("tolist", "item", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        counting(name, getattr(torch.Tensor, name))
    return counts


@pytest.fixture
def accelerator(monkeypatch):
    """Calls take the way that they take where every look at a tensor waits for the device."""
    monkeypatch.setattr(audio_emotion_mixin, "is_slow_to_read", lambda device: True)


@pytest.mark.parametrize("memory", [{}, {"scope": "speaker"}, {"voice_layers": [2]}])
@pytest.mark.parametrize("ids", [None, [5, 5, 7]])
@torch.no_grad()
def test_a_call_on_an_accelerator_looks_once(looks, accelerator, ids, memory):
    model, turns = tiny_model(memory), tiny_turns(3)
    cache = ConversationMemoryCache(model.config, batch_size=3)
    for _ in range(2):  # the first call finds the fingerprint of the weights
        looks.clear()
        model(**turns, memory_cache=cache, conversation_ids=ids, speaker_ids=[0, 1, 0], logits_to_keep=1)
    assert sum(looks.values()) == 1, looks


@pytest.mark.parametrize("memory", [{}, {"read": "chunk"}, {"scope": "speaker"}, {"voice_layers": [2]}])
@pytest.mark.parametrize("ids", [None, [5, 5, 7]])
@torch.no_grad()
def test_calls_that_look_later_give_the_same(monkeypatch, ids, memory):
    model, caches, outputs = tiny_model(memory), [], []
    for is_slow in (False, True):
        monkeypatch.setattr(audio_emotion_mixin, "is_slow_to_read", lambda device, is_slow=is_slow: is_slow)
        caches.append(ConversationMemoryCache(model.config, batch_size=3))
        for seed in range(3):
            turns = tiny_turns(3, seed=seed)
            output = model(**turns, memory_cache=caches[-1], conversation_ids=ids, speaker_ids=[0, 1, 0])
        outputs.append(output)
    for name in ("logits", "emotion_logits", "memory_surprise"):
        torch.testing.assert_close(outputs[1][name], outputs[0][name], rtol=1e-5, atol=1e-5)
    assert_states_close(*caches)


@torch.no_grad()
def test_a_call_that_looks_later_writes_nothing_if_its_inputs_are_wrong(accelerator):
    model = tiny_model()
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**tiny_turns(2), memory_cache=cache)
    before = cache.clone()
    broken = tiny_turns(2, seed=1)
    broken["input_features"][1, 3, 7] = float("nan")
    with pytest.raises(ValueError, match="input_features must be finite, but 1 of its"):
        model(**broken, memory_cache=cache)
    with pytest.raises(ValueError, match="logits_to_keep=1 drops the last position of a right-padded row"):
        model(**tiny_turns(2, frames=[30, 80], padding_side="right"), memory_cache=cache, logits_to_keep=1)
    assert torch.equal(cache.turns, before.turns)
    assert torch.equal(cache.layers[0].weights[0], before.layers[0].weights[0])


@pytest.mark.parametrize("labels", [{}, {"emotion_labels": [0, 1]}, {"emotion_value_labels": [[0.1], [0.2]]}])
@pytest.mark.parametrize("training", [False, True])
def test_a_call_that_learns_reads_its_inputs_before_it_runs(accelerator, monkeypatch, labels, training):
    """Its labels are checked against them, and a frozen tower must not process features that are not finite."""
    model = tiny_model(emotion_dimensions=["valence"]).train(training)
    cache, given = ConversationMemoryCache(model.config, batch_size=2), tiny_turns(2)
    given["input_features"][0, 0, 0] = float("inf")
    ran = []
    handle = model.get_decoder().register_forward_hook(lambda *of: ran.append(1))
    with pytest.raises(ValueError, match="input_features must be finite"):
        model(**given, memory_cache=cache, **labels)
    handle.remove()
    assert bool(ran) == (not labels and not training)
    assert cache.turns.tolist() == [0, 0]


@torch.no_grad()
def test_calls_that_hold_no_audio_score_nothing_on_an_accelerator(accelerator):
    model = tiny_model()
    cache, turns = ConversationMemoryCache(model.config, batch_size=1), tiny_turns(1)
    text = torch.full_like(turns["input_ids"], 7)
    assert model(input_ids=text, memory_cache=cache).emotion_logits is None
    assert cache.turns.tolist() == [0]


@pytest.mark.parametrize(("ids", "rows"), [(None, 2), ([5, 5, 7], 2)])
@torch.no_grad()
def test_a_call_looks_at_its_inputs_once_and_at_what_it_writes_once(looks, ids, rows):
    model = tiny_model()
    turns, cache = tiny_turns(len(ids or [0, 1])), ConversationMemoryCache(model.config, batch_size=rows)
    for _ in range(2):  # the first call finds the fingerprint of the weights
        looks.clear()
        model(**turns, memory_cache=cache, conversation_ids=ids, logits_to_keep=1)
    assert sum(looks.values()) <= 2, looks
    looks.clear()
    model(**turns, memory_cache=cache, conversation_ids=ids, update_memory=False, logits_to_keep=1)
    assert sum(looks.values()) <= 1, looks


def test_a_training_step_looks_once(looks):
    """Its turns start from the learned memory, and what they write is read by the loss alone."""
    model, turns = tiny_model().train(), tiny_turns(3)
    labels = torch.tensor([1, -1, 2])
    looks.clear()
    model(**turns, conversation_ids=[5, 5, 7], emotion_labels=labels, logits_to_keep=1).loss.backward()
    # One more for the labels where they are on the CPU, which waits for nothing.
    assert sum(looks.values()) <= 2, looks
