"""The memory of one speaker: it has nothing of the others, and goes on in another conversation as in its own."""

import pytest
import torch
from tiny_models import assert_same_state, rows_of, state_of, tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.speaker_streams import add_speaker_stream, speaker_stream


AGENT, CALLER = 8, 3
SPEAKERS = [AGENT, CALLER, AGENT, CALLER, CALLER]


@pytest.fixture(scope="module")
def model():
    return tiny_model({"scope": "speaker", "max_speakers": 2})


@pytest.fixture
def call(model):
    """A conversation of two speakers."""
    cache = ConversationMemoryCache(model.config)
    score(model, cache, range(5), SPEAKERS)
    return cache


def score(model, cache, places, speakers):
    """(turns, labels), the logits of turns of a fixed batch, one after the other."""
    turns, logits = tiny_turns(8, seed=4), []
    with torch.no_grad():
        for place, speaker in zip(places, speakers):
            output = model(**rows_of(turns, [place]), memory_cache=cache, speaker_ids=[speaker])
            logits.append(output.emotion_logits[0])
    return torch.stack(logits)


@pytest.mark.parametrize("speaker", [AGENT, CALLER])
def test_a_stream_holds_one_speaker_alone(model, call, speaker):
    call.notes["private"] = "of the whole call"
    before = state_of(call)
    stream = speaker_stream(call, speaker)
    assert_same_state(before, state_of(call))
    own = [place for place, name in enumerate(SPEAKERS) if name == speaker]
    alone = ConversationMemoryCache(model.config)
    score(model, alone, own, [0] * len(own))
    assert (stream.turns.tolist(), stream.speaker_ids, stream.notes) == ([len(own), 0], [{0: 0}], {})
    assert torch.equal(stream.tokens, alone.tokens)
    for layer, expected in zip(stream.layers, alone.layers):
        for tensor, other in zip(layer.state.tensors, expected.state.tensors):
            torch.testing.assert_close(tensor[0], other[0], rtol=0, atol=1e-6)
            assert not tensor[1:].any()


@pytest.mark.parametrize("others", [0, 1])
def test_a_speaker_goes_on_in_another_conversation(model, call, others):
    """Whether somebody else has talked there before or not."""
    expected = score(model, call.clone(), [5, 6], [CALLER, CALLER])
    later = ConversationMemoryCache(model.config)
    if others:
        score(model, later, [7], [55])
    add_speaker_stream(later, CALLER, speaker_stream(call, CALLER))
    assert later.turns.sum() == 3 + others
    assert later.weights_fingerprint == call.weights_fingerprint is not None
    torch.testing.assert_close(score(model, later, [5, 6], [CALLER, CALLER]), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(score(model, ConversationMemoryCache(model.config), [5], [CALLER])[0], expected[0])


def test_what_cannot_be_taken_or_added_changes_nothing(model, call):
    stream, before = speaker_stream(call, CALLER), state_of(call)
    with pytest.raises(ValueError, match=r"no memory of the speaker 99: its speakers are \[3, 8\]"):
        speaker_stream(call, 99)
    for speaker in (CALLER, 99):  # known, and one too many
        with pytest.raises(ValueError, match=f"The speaker {speaker} cannot be added: the cache already has"):
            add_speaker_stream(call, speaker, stream)
    assert_same_state(before, state_of(call))
    several = ConversationMemoryCache(model.config, batch_size=2)
    shared = ConversationMemoryCache(tiny_model().config)
    for cache, found in ((several, "2 conversations and scope='speaker'"), (shared, "scope='conversation'")):
        with pytest.raises(ValueError, match=found):
            speaker_stream(cache, CALLER)
        with pytest.raises(ValueError, match=found):
            add_speaker_stream(cache, CALLER, stream)


def test_a_stream_of_other_weights_is_rejected(model, call):
    other = tiny_model({"scope": "speaker", "max_speakers": 2}, seed=1)
    theirs = ConversationMemoryCache(other.config)
    score(other, theirs, [0], [55])
    before = state_of(theirs)
    with pytest.raises(ValueError, match="weights"):
        add_speaker_stream(theirs, CALLER, speaker_stream(call, CALLER))
    assert_same_state(before, state_of(theirs))
