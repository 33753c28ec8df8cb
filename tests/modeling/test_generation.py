"""`generate` reads the history, writes a turn exactly once, and leaves one row a conversation."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import (
    AUDIO,
    MODES,
    VOCABULARY,
    assert_same_state,
    rows_of,
    state_of,
    tiny_host,
    tiny_model,
    tiny_turns,
)

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.audio_emotion_output import HOST_CACHE


def after_forward(model, rows, calls):
    """The state that plain forwards over the same turns leave."""
    cache = ConversationMemoryCache(model.config, batch_size=rows)
    for seed in range(calls):
        model(**tiny_turns(rows, seed=seed), memory_cache=cache)
    return cache


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_turn_is_written_once(mode):
    model = tiny_model()
    rows = 1 if mode == "prompt look-up" else 2
    cache = ConversationMemoryCache(model.config, batch_size=rows)
    # Running the whole sequence again, the host cannot embed a placeholder that it decoded itself.
    kwargs = {"max_new_tokens": 5, "suppress_tokens": [AUDIO], **MODES[mode]}
    for seed in range(2):
        model.generate(**tiny_turns(rows, seed=seed), memory_cache=cache, **kwargs)
    expected = after_forward(model, rows, 2)
    assert cache.batch_size == rows
    assert cache.turns.tolist() == [2] * rows
    assert torch.equal(cache.tokens, expected.tokens)
    for ours, theirs in zip(cache.layers, expected.layers):
        for a, b in zip((*ours.weights, *ours.momentum), (*theirs.weights, *theirs.momentum)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["greedy", "beams", "no key-value cache", "static cache"])
@torch.no_grad()
def test_the_answer_depends_on_the_history(mode):
    """And is what a step by step search with the history gives."""
    model, turns = tiny_model(), tiny_turns(2, seed=5)
    cache = after_forward(model, 2, 2)
    kwargs = {"max_new_tokens": 8, "suppress_tokens": [AUDIO]}
    with_history = model.generate(**turns, memory_cache=cache.clone(), **kwargs, **MODES[mode])
    without = model.generate(**turns, **kwargs, **MODES[mode])
    assert not torch.equal(with_history, without)
    if mode in ("no key-value cache", "static cache"):
        plain = model.generate(**turns, memory_cache=cache.clone(), **kwargs)
        assert torch.equal(with_history, plain)


@torch.no_grad()
def test_greedy_equals_forwards_with_the_history():
    model, turns = tiny_model(), tiny_turns(1, seed=5)
    cache = after_forward(model, 1, 2)
    generated = model.generate(**turns, memory_cache=cache.clone(), max_new_tokens=5, do_sample=False)
    sequence = turns
    for _ in range(5):
        logits = model(**sequence, memory_cache=cache, update_memory=False).logits[:, -1]
        ids = torch.cat([sequence["input_ids"], logits.argmax(-1, keepdim=True)], dim=1)
        sequence = dict(turns, input_ids=ids, attention_mask=torch.ones_like(ids))
    assert torch.equal(generated, sequence["input_ids"])


@torch.no_grad()
def test_generating_without_update_reads_and_does_not_write():
    model, turns = tiny_model(), tiny_turns(2, seed=5)
    cache = after_forward(model, 2, 1)
    before = state_of(cache)
    silent = model.generate(**turns, memory_cache=cache, update_memory=False, max_new_tokens=6)
    assert_same_state(before, state_of(cache))
    assert torch.equal(silent, model.generate(**turns, memory_cache=cache, max_new_tokens=6))
    assert cache.turns.tolist() == [2, 2]


@torch.no_grad()
def test_beams_of_a_batch_are_those_of_its_rows():
    model, turns = tiny_model(), tiny_turns(3, seed=5, frames=[60, 60, 60])
    cache = after_forward(model, 3, 2)
    beams = {"num_beams": 3, "max_new_tokens": 6}
    together = model.generate(**turns, memory_cache=cache.clone(), **beams)
    for row, single in enumerate(cache.split()):
        alone = model.generate(**rows_of(turns, [row]), memory_cache=single, **beams)
        assert torch.equal(together[[row]], alone)


@torch.no_grad()
def test_conversation_ids_in_generate():
    model = tiny_model()
    ids = torch.tensor([8, 3, 8])
    turns = tiny_turns(3)
    generated = ConversationMemoryCache(model.config, batch_size=2)
    model.generate(**turns, memory_cache=generated, conversation_ids=ids, max_new_tokens=4, num_beams=2)
    expected = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=expected, conversation_ids=ids)
    assert generated.conversation_ids == {8: 0, 3: 1}
    assert generated.turns.tolist() == [2, 1]
    for a, b in zip(generated.layers[1].weights, expected.layers[1].weights):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kwargs", [{}, {"use_cache": False}])
@torch.no_grad()
def test_a_decoded_placeholder_is_no_audio(kwargs):
    model = tiny_model()
    model.lm_head.weight.zero_()
    model.lm_head.weight[AUDIO] = model.lm_head.weight.new_ones(())
    turns = tiny_turns(1)

    def always_audio(input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[:, AUDIO] = 0.0
        return scores

    cache = ConversationMemoryCache(model.config)
    # The host itself cannot embed a placeholder without audio when it runs the whole sequence again.
    if kwargs:
        with pytest.raises(ValueError, match="do not match"):
            model.generate(**turns, memory_cache=cache, max_new_tokens=4, logits_processor=[always_audio], **kwargs)
        assert not cache.is_initialized
        return
    output = model.generate(**turns, memory_cache=cache, max_new_tokens=4, logits_processor=[always_audio])
    assert output[0, -4:].tolist() == [AUDIO] * 4
    expected = ConversationMemoryCache(model.config)
    model(**turns, memory_cache=expected)
    assert torch.equal(cache.tokens, expected.tokens)


@torch.no_grad()
def test_an_assistant_without_memory_helps():
    model, turns = tiny_model(), tiny_turns(1, seed=5)
    torch.manual_seed(3)
    assistant = tiny_host()
    cache = after_forward(model, 1, 2)
    plain = model.generate(**turns, memory_cache=cache.clone(), max_new_tokens=6, do_sample=False)
    assisted_cache = cache.clone()
    assisted = model.generate(
        **turns, memory_cache=assisted_cache, max_new_tokens=6, do_sample=False, assistant_model=assistant
    )
    assert torch.equal(plain, assisted)
    assert assisted_cache.turns.tolist() == [3]


@torch.no_grad()
def test_rows_that_finish_early_keep_their_memory():
    model, turns = tiny_model(), tiny_turns(2)
    first = model.generate(**turns, max_new_tokens=1)[0, -1].item()
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model.generate(**turns, memory_cache=cache, max_new_tokens=6, eos_token_id=first, pad_token_id=0)
    assert torch.equal(cache.tokens, after_forward(model, 2, 1).tokens)


WORD = VOCABULARY["word1"]


@pytest.mark.parametrize("counts", [[2, 0], [0, 2], [2, 1, 0]])
@pytest.mark.parametrize("mode", ["beams", "several samples"])
def test_copies_of_prompts_with_other_numbers_of_turns_are_refused(counts, mode):
    """As many windows as prompts do not mean one for each."""
    model = tiny_model()
    inputs = tiny_turns(len(counts), seed=0)
    for row, count in enumerate(counts):
        if not count:
            inputs["input_ids"][row][inputs["input_ids"][row] == AUDIO] = WORD
    cache = ConversationMemoryCache(model.config, batch_size=len(counts))
    before = state_of(cache)
    with pytest.raises(ValueError, match=r"one audio window per prompt, but prompts \[\d\] have none"):
        model.generate(**inputs, memory_cache=cache, max_new_tokens=2, **MODES[mode])
    assert_same_state(state_of(cache), before)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_decoding_step_is_known_by_both_names_of_the_key_value_cache(name):
    """transformers 5.24 renamed it; a step that is not known as one would look for audio in the prompt's beginning."""
    if name not in (HOST_CACHE, "past_key_values"):
        pytest.skip("this transformers does not have that name")
    transaction = SimpleNamespace(is_closed=True, prompt_audio=None)
    call = {"input_ids": torch.ones(1, 1, dtype=torch.long), name: object()}
    assert tiny_model()._memory_call(transaction, call, None) is None
