"""Emotion transitions: the scores of a turn follow those of the conversation's turn before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import AUDIO, MODES, VOCABULARY, rows_of, tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache
from titans_mal.evaluation.baselines import decode_dialogues
from titans_mal.modeling.emotion_transitions import are_beliefs, check_transitions, follow_transitions
from titans_mal.modeling.speaker_streams import speaker_stream


LABELS = 4
PRIOR = np.array([0.4, 0.3, 0.2, 0.1])
MATRIX = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1], [0.1, 0.1, 0.6, 0.2], [0.3, 0.2, 0.3, 0.2]])
TRANSITIONS = (MATRIX / PRIOR).tolist()


def following(**kwargs):
    """A model that follows transitions, with a readout that is far from uniform."""
    model = tiny_model(emotion_readout="linear", emotion_transitions=TRANSITIONS, **kwargs)
    model.emotion_head.weight.data.mul_(20)
    return model


def cache_for(model, rows: int = 1) -> ConversationMemoryCache:
    return ConversationMemoryCache(model.config, batch_size=rows)


def logits_of(model, turns: dict, **kwargs) -> torch.Tensor:
    with torch.no_grad():
        return model(**turns, **kwargs).emotion_logits


def without_transitions(model, turns: dict, **kwargs) -> torch.Tensor:
    given, model.config.emotion_transitions = model.config.emotion_transitions, None
    try:
        return logits_of(model, turns, **kwargs)
    finally:
        model.config.emotion_transitions = given


def assert_decoded(
    followed: torch.Tensor, raw: torch.Tensor, conversations: list[str], temperature: float = 1.0
) -> None:
    """Whether logits are those of the forward recursion (Rabiner 1989, equations 19 and 20), written out here.

    The evaluation decodes the same from logits without transitions.
    """
    scaled, beliefs, expected = raw.double() / temperature, {}, []
    for name, probabilities in zip(conversations, scaled.softmax(-1).numpy()):
        joint = probabilities / PRIOR * (beliefs[name] @ MATRIX if name in beliefs else PRIOR)
        beliefs[name] = joint / joint.sum()
        expected.append(np.log(beliefs[name]))
    np.testing.assert_allclose((followed.double() / temperature).log_softmax(-1), expected, atol=1e-5)
    np.testing.assert_allclose(decode_dialogues(scaled.numpy(), conversations, PRIOR, MATRIX), expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_turns_of_one_call_are_decoded_in_their_order(temperature):
    model, turns, ids = following(emotion_temperature=temperature), tiny_turns(6), [7, 5, 5, 9, 5, 9]
    names = [str(name) for name in ids]
    followed = logits_of(model, turns, memory_cache=cache_for(model, 3), conversation_ids=ids)
    raw = without_transitions(model, turns, memory_cache=cache_for(model, 3), conversation_ids=ids)
    assert_decoded(followed, raw, names, temperature)
    assert torch.equal(followed[[0, 1, 3]], raw[[0, 1, 3]]), "a first turn keeps its logits, bit for bit"
    assert not torch.allclose(followed, raw, atol=1e-2)


@pytest.mark.parametrize("scope", ["conversation", "speaker"])
def test_turns_of_several_calls_are_decoded_as_those_of_one(scope):
    model, turns = following(memory={"scope": scope}), tiny_turns(5)
    speakers = [0, 1, 0, 0, 1] if scope == "speaker" else None
    given = {"conversation_ids": [3] * 5, "speaker_ids": speakers}
    together = logits_of(model, turns, memory_cache=cache_for(model), **given)
    cache, alone = cache_for(model), []
    for row in range(5):
        one = {"conversation_ids": [3], "speaker_ids": speakers and [speakers[row]]}
        alone.append(logits_of(model, rows_of(turns, [row]), memory_cache=cache, **one))
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=0)
    assert_decoded(together, without_transitions(model, turns, memory_cache=cache_for(model), **given), ["c"] * 5)


def test_a_call_that_does_not_write_reads_and_keeps_the_beliefs():
    model = following()
    cache = cache_for(model)
    logits_of(model, tiny_turns(1), memory_cache=cache)
    before, turn = cache.beliefs.clone(), tiny_turns(1, seed=1)
    first = logits_of(model, turn, memory_cache=cache, update_memory=False)
    assert torch.equal(cache.beliefs, before)
    assert torch.equal(first, logits_of(model, turn, memory_cache=cache, update_memory=False))
    assert torch.equal(first, logits_of(model, turn, memory_cache=cache))
    assert not torch.equal(cache.beliefs, before)


def test_losses_training_and_calls_without_memory_do_not_follow_transitions():
    model, turns = following(), tiny_turns(1, seed=1)
    cache = cache_for(model)
    logits_of(model, tiny_turns(1), memory_cache=cache)
    with_labels = model(**turns, memory_cache=cache.clone(), emotion_labels=[2])
    raw = without_transitions(model, turns, memory_cache=cache.clone())
    assert not torch.allclose(with_labels.emotion_logits, raw, atol=1e-3)
    torch.testing.assert_close(with_labels.loss, torch.nn.functional.cross_entropy(raw, torch.tensor([2])))
    model.train()
    assert torch.equal(logits_of(model, turns, memory_cache=cache.clone()), raw)
    model.eval()
    with model.disable_memory():
        assert torch.equal(logits_of(model, turns), without_transitions(model, turns))
    assert torch.equal(logits_of(model, turns), without_transitions(model, turns)), "no cache, no history"


@pytest.mark.parametrize(
    ("mode", "readout"), [*((mode, "linear") for mode in MODES), ("greedy", "audio"), ("greedy", "verbalizer")]
)
def test_generate_writes_the_beliefs_of_its_prompt(mode, readout):
    model = tiny_model(emotion_readout=readout, emotion_transitions=TRANSITIONS)
    rows = 1 if mode == "prompt look-up" else 2
    written, plain = cache_for(model, rows), cache_for(model, rows)
    for seed in range(2):
        turns = tiny_turns(rows, seed=seed)
        with torch.no_grad():
            model.generate(**turns, memory_cache=written, max_new_tokens=3, suppress_tokens=[AUDIO], **MODES[mode])
        logits_of(model, turns, memory_cache=plain)
    torch.testing.assert_close(written.beliefs, plain.beliefs, atol=1e-5, rtol=0)


def test_candidates_of_assisted_decoding_do_not_belong_to_the_turn():
    """They follow the prompt in the first call, so that its last position is not where the readout is."""
    model, turns, lengths = following(), tiny_turns(1), []
    turns["input_ids"][0, -1] = turns["input_ids"][0, -2]  # a repetition, from which candidates are looked up
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    written, plain = cache_for(model), cache_for(model)
    with torch.no_grad():
        model.generate(
            **turns, memory_cache=written, max_new_tokens=3, suppress_tokens=[AUDIO], prompt_lookup_num_tokens=2
        )
    hook.remove()
    assert lengths[0] > turns["input_ids"].shape[1]
    logits_of(model, turns, memory_cache=plain)
    torch.testing.assert_close(written.beliefs, plain.beliefs, atol=1e-5, rtol=0)


def test_a_turn_that_was_written_without_logits_leaves_no_belief():
    """The turn after it must not follow the turn before it."""
    model = following()
    cache, ids = cache_for(model, 2), [4, 6]
    logits_of(model, tiny_turns(2), memory_cache=cache, conversation_ids=ids)
    before = cache.beliefs.clone()
    without_transitions(model, tiny_turns(1, seed=1), memory_cache=cache, conversation_ids=[6])
    assert torch.equal(cache.beliefs, torch.stack([before[0], torch.zeros(LABELS)]))
    turn = tiny_turns(1, seed=2)
    raw = without_transitions(model, turn, memory_cache=cache.clone(), conversation_ids=[6])
    assert torch.equal(logits_of(model, turn, memory_cache=cache, conversation_ids=[6]), raw)


def test_autocast_does_not_round_the_transitions():
    logits, beliefs = torch.randn(2, 3), torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 0.0]])
    ratios = torch.tensor([[1.001, 2.003, 0.507], [1.0, 1.0, 1.0], [0.301, 0.9, 1.7]])
    plain = follow_transitions(logits, beliefs, ratios, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(follow_transitions(logits, beliefs, ratios, 1.0), plain)


def test_beliefs_on_other_labels_are_rejected_by_name():
    model = following()
    cache = cache_for(model)
    logits_of(model, tiny_turns(1), memory_cache=cache)
    cache.beliefs = cache.beliefs[:, :3]
    with pytest.raises(ValueError, match="holds beliefs on 3 labels, but the model has 4"):
        logits_of(model, tiny_turns(1), memory_cache=cache)


def test_a_call_that_fails_leaves_the_beliefs():
    model = following()
    cache = cache_for(model)
    logits_of(model, tiny_turns(1), memory_cache=cache)
    before = cache.beliefs
    model.emotion_head.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        logits_of(model, tiny_turns(1, seed=1), memory_cache=cache)
    assert cache.beliefs is before


def test_a_row_without_audio_is_no_turn():
    model = following()
    cache = cache_for(model, 2)
    logits_of(model, tiny_turns(2), memory_cache=cache)
    before, turns = cache.beliefs.clone(), tiny_turns(2, seed=1)
    turns["input_ids"][1][turns["input_ids"][1] == AUDIO] = VOCABULARY["user"]
    turns["input_features"], turns["feature_attention_mask"] = (
        turns[name][:1] for name in ("input_features", "feature_attention_mask")
    )
    logits_of(model, turns, memory_cache=cache)
    assert torch.equal(cache.beliefs[1], before[1])
    assert not torch.equal(cache.beliefs[0], before[0])


def test_the_cache_carries_beliefs_with_its_rows(tmp_path):
    model = following()
    cache = cache_for(model, 3)
    logits_of(model, tiny_turns(3), memory_cache=cache)
    beliefs = cache.beliefs.clone()
    assert are_beliefs(beliefs)
    parts = cache.split()
    stacked = ConversationMemoryCache.stack([parts[2], cache_for(model), parts[0]])
    assert torch.equal(stacked.beliefs, torch.stack([beliefs[2], torch.zeros(LABELS), beliefs[0]]))
    chosen = cache.clone()
    chosen.batch_select_indices(torch.tensor([1, 1]))
    assert torch.equal(chosen.beliefs, beliefs[[1, 1]])
    cache.save_pretrained(tmp_path)
    assert torch.equal(ConversationMemoryCache.from_pretrained(tmp_path, model.config).beliefs, beliefs)
    snapshot = cache.snapshot()
    cache.reset([1])
    assert torch.equal(cache.beliefs, beliefs * torch.tensor([[1.0], [0.0], [1.0]]))
    cache.reset()
    assert cache.beliefs is None
    cache.restore(snapshot)
    assert torch.equal(cache.beliefs, beliefs)


def test_a_state_without_beliefs_is_continued_and_a_broken_one_rejected(tmp_path):
    model = following()
    cache, plain = cache_for(model), cache_for(model)
    without_transitions(model, tiny_turns(1), memory_cache=plain)
    assert plain.beliefs is None
    turn = tiny_turns(1, seed=1)
    raw = without_transitions(model, turn, memory_cache=plain.clone())
    assert torch.equal(logits_of(model, turn, memory_cache=plain), raw)
    assert are_beliefs(plain.beliefs)
    logits_of(model, tiny_turns(1), memory_cache=cache)
    for broken in (cache.beliefs + 1, cache.beliefs.double(), -cache.beliefs, cache.beliefs[:, :2]):
        cache.beliefs = broken
        cache.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="broken"):
            ConversationMemoryCache.from_pretrained(tmp_path, model.config)


def test_the_configuration_keeps_and_checks_transitions(tmp_path):
    model = following()
    model.save_pretrained(tmp_path)
    assert type(model.config).from_pretrained(tmp_path).emotion_transitions == TRANSITIONS
    for wrong in (
        [[1.0]],
        "no",
        [[1.0] * LABELS] * 3,
        [[0.0] * LABELS] * LABELS,
        [[True] * LABELS] * LABELS,
        [1.0] * 4,
    ):
        with pytest.raises(ValueError, match="emotion_transitions must be a list of 4 lists"):
            check_transitions(wrong, LABELS)
        with pytest.raises(ValueError, match="emotion_transitions must be a list of 4 lists"):
            tiny_model(emotion_transitions=wrong)
    with pytest.raises(ValueError, match="need an emotion_readout"):
        tiny_model(emotion_transitions=TRANSITIONS, emotion_readout=None, emotion_dimensions=["valence"])


def test_uniform_transitions_change_nothing():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    beliefs = torch.tensor([[0.2, 0.3, 0.5]]).expand(5, 3)
    torch.testing.assert_close(follow_transitions(logits, beliefs, torch.ones(3, 3), 2.0), logits)


def test_the_memory_of_a_speaker_does_not_carry_the_belief_of_a_conversation():
    model = following(memory={"scope": "speaker"})
    cache = cache_for(model)
    logits_of(model, tiny_turns(1), memory_cache=cache, speaker_ids=[7])
    assert speaker_stream(cache, 7).beliefs is None
