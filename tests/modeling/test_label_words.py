"""Labels whose words begin with the same token are scored as whole words."""

import contextlib

import pytest
import torch
from tiny_models import LABELS, VOCABULARY, assert_same_state, state_of, tiny_model, tiny_processor, tiny_turns
from transformers import StaticCache

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.label_words import are_label_tokens, find_label_tokens


SAD, HAPPY, ANGRY, NEUTRAL = (VOCABULARY[word] for word in ("sad", "happy", "angry", "neutral"))
ONE, TWO = VOCABULARY["word1"], VOCABULARY["word2"]
WORDS = [[NEUTRAL], [SAD, ONE], [SAD, TWO, HAPPY], [ANGRY, ONE]]


def test_first_tokens_do_where_they_differ():
    assert find_label_tokens(tiny_processor().tokenizer, "assistant ", ["sad", "happy word2"]) == [SAD, HAPPY]


def test_whole_words_where_first_tokens_coincide():
    tokens = find_label_tokens(tiny_processor().tokenizer, "assistant ", ["sad word1", "sad word2", "happy"])
    assert tokens == [[SAD, ONE], [SAD, TWO], [HAPPY]]


@pytest.mark.parametrize(
    "words", [["sad", "sad word1"], ["sad word1", "sad word1 word2"], ["sad word1", "sad unheard"]]
)
def test_words_that_tokens_cannot_tell_apart_are_rejected(words):
    with pytest.raises(ValueError, match="begin with the same token, and the verbalizer cannot distinguish"):
        find_label_tokens(tiny_processor().tokenizer, "assistant ", words)


@pytest.mark.parametrize(
    "tokens", [[[1], [1, 2]], [[1, 2], [1, 2]], [[1], []], [[1], 2], [[1], [-1]], [[1], [2, 10**9]], [[1], "2"], [[1]]]
)
def test_tokens_of_words_are_checked(tokens):
    assert are_label_tokens([[1, 2], [1, 3]], 2, 9)
    assert not are_label_tokens(tokens, 2, 9)
    with pytest.raises(ValueError, match="label_token_ids must hold a different token"):
        tiny_model(id2label={0: "sad", 1: "happy"}, label_token_ids=tokens)


@torch.no_grad()
def test_scores_are_the_log_probabilities_that_generation_has():
    model, turns = tiny_model(label_token_ids=WORDS), tiny_turns(2, seed=3)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**tiny_turns(2, seed=1), memory_cache=cache)
    scores = model(**turns, memory_cache=cache, update_memory=False, logits_to_keep=1).emotion_logits
    prompt = turns["input_ids"].shape[1]
    for label, word in enumerate(WORDS):
        out = model.generate(
            **turns, memory_cache=cache, update_memory=False, max_new_tokens=len(word), output_logits=True,
            return_dict_in_generate=True, prefix_allowed_tokens_fn=lambda _, ids, word=word: [word[len(ids) - prompt]],
        )  # fmt: skip
        logits = torch.stack(out.logits, dim=1).log_softmax(-1)
        expected = sum(logits[:, i, token] for i, token in enumerate(word))
        torch.testing.assert_close(scores[:, label], expected, rtol=0, atol=1e-5)


def test_further_steps_write_nothing_and_leave_the_output_alone():
    turns, caches = tiny_turns(2, seed=3), []
    outputs = []
    for tokens in (WORDS, None):
        model = tiny_model(**({} if tokens is None else {"label_token_ids": tokens}))
        caches.append(ConversationMemoryCache(model.config, batch_size=2))
        with torch.no_grad():
            outputs.append(model(**turns, memory_cache=caches[-1]))
    assert_same_state(*map(state_of, caches))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    words, plain = (output.past_key_values.get_seq_length() for output in outputs)
    assert words == plain == turns["input_ids"].shape[1]
    assert model.generate(**turns, max_new_tokens=2).shape == (2, words + 2)


def test_checkpointing_changes_neither_loss_nor_gradients():
    found = []
    for is_checkpointed in (False, True):
        model = tiny_model(label_token_ids=WORDS).train()
        model.requires_grad_(False)
        model.titans_memory.requires_grad_(True)
        if is_checkpointed:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        output = model(**tiny_turns(3, seed=3), conversation_ids=[0, 0, 1], emotion_labels=[-1, 2, 1], use_cache=False)
        output.loss.backward()
        found.append((output, [parameter.grad for parameter in model.titans_memory.parameters()]))
    (plain, expected), (checkpointed, gradients) = found
    torch.testing.assert_close(checkpointed.emotion_logits, plain.emotion_logits, rtol=0, atol=1e-5)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in expected)
    for one, other in zip(gradients, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["static", "right padding", "no cache", "memory off"])
@torch.no_grad()
def test_words_score_alike_in_whatever_way_the_prompt_is_given(kind):
    model, turns = tiny_model(label_token_ids=WORDS), tiny_turns(3, seed=3)
    caches = [ConversationMemoryCache(model.config, batch_size=2) for _ in range(2)]
    for cache in caches:
        model(**tiny_turns(2, seed=1), memory_cache=cache, conversation_ids=[7, 8])
    given, ids = dict(turns), {"conversation_ids": [7, 8, 7]}
    if kind == "static":
        length = turns["input_ids"].shape[1] + 4
        given["past_key_values"] = StaticCache(model.config.get_text_config(), max_cache_len=length)
    elif kind == "right padding":
        for name in ("input_ids", "attention_mask"):
            rows = [turns[name][row, turns["attention_mask"][row].bool()] for row in range(3)]
            given[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    elif kind == "no cache":
        given["use_cache"] = False
    with model.disable_memory() if kind == "memory off" else contextlib.nullcontext():
        expected = model(**turns, memory_cache=caches[0], **ids)
        actual = model(**given, memory_cache=caches[1], **ids)
    torch.testing.assert_close(actual.emotion_logits, expected.emotion_logits, rtol=0, atol=1e-5)
    for one, other in zip(state_of(caches[1])[:-2], state_of(caches[0])[:-2]):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_prompt_that_began_earlier_needs_a_cache_that_grows():
    model, turns = tiny_model(label_token_ids=WORDS), tiny_turns(1, seed=3)
    past = StaticCache(model.config.get_text_config(), max_cache_len=200)
    with model.disable_memory():
        model(**turns, past_key_values=past)
    with pytest.raises(ValueError, match=r"A static cache cannot be used .* prompt that spans several calls"):
        model(**turns, past_key_values=past)


def test_words_stand_for_labels_in_prompt_and_answer():
    labels = dict(enumerate(LABELS))
    model = tiny_model(id2label=labels, label_words={"sad": "word1"}, emotion_prompt="emotion {labels}")
    assert model.config.prompt_text() == "emotion neutral, happy, word1, angry"
    assert model.label_tokens_of(model.config, tiny_processor()) == [NEUTRAL, HAPPY, ONE, ANGRY]
    assert model.config.labels == list(LABELS)


@pytest.mark.parametrize("words", [{"bored": "word1"}, {"sad": "happy"}, {"sad": " "}, {"sad": 3}, ["word1"]])
def test_words_are_checked(words):
    with pytest.raises(ValueError, match="label_words must map labels out of"):
        tiny_model(label_words=words)
