"""One way to score a turn: the same numbers one by one and together, and nothing changed by what fails."""

import numpy as np
import pytest
import torch
from tiny_models import LABELS, assert_same_state, state_of, tiny_model, tiny_processor, tone

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.turn_scoring import TurnScorer


RATE = 16_000
TURNS = [tone(0.4 + 0.2 * i, frequency=150 + 40 * i) for i in range(4)]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def fresh(scorer, count=1):
    return [ConversationMemoryCache(scorer.model.config) for _ in range(count)]


def test_scores_equal_the_models(processor):
    scorer = TurnScorer(tiny_model(), processor)
    (cache,), expected = fresh(scorer), ConversationMemoryCache(scorer.model.config)
    for waveform in TURNS:
        (turn,) = scorer.score([waveform], [None], [cache])
        with torch.no_grad():
            output = scorer.model(**scorer.model.prepare_turn(processor, (waveform, RATE)), memory_cache=expected)
        torch.testing.assert_close(turn.logits, output.emotion_logits[0])
        assert list(turn.scores) == list(LABELS)
        assert list(turn.scores.values()) == pytest.approx(output.emotion_logits[0].softmax(-1).tolist())
        assert turn.surprise == pytest.approx(output.memory_surprise.mean().item())
        assert turn.processed_seconds == len(waveform) / RATE
    assert_same_state(state_of(cache), state_of(expected))


@pytest.mark.parametrize("scope", ["conversation", "speaker"])
def test_together_equals_one_by_one(processor, scope):
    scorer = TurnScorer(tiny_model({"scope": scope}), processor)
    together, alone = fresh(scorer, 3), fresh(scorer, 3)
    for cache in together:
        cache.notes["mine"] = 1
    for shift in range(2):
        waveforms = [TURNS[(shift + i) % 4] for i in range(3)]
        batch = scorer.score(waveforms, ["A", "B", "AB"[shift]], together)
        for turn, waveform, speaker, cache in zip(batch, waveforms, ["A", "B", "AB"[shift]], alone):
            (single,) = scorer.score([waveform], [speaker], [cache])
            torch.testing.assert_close(turn.logits, single.logits, rtol=0, atol=1e-5)
            assert turn.surprise == pytest.approx(single.surprise, abs=1e-5)
    assert [cache.turns.tolist() for cache in together] == [cache.turns.tolist() for cache in alone]
    assert all(cache.notes["mine"] == 1 for cache in together)


def test_speakers_are_required_with_a_memory_per_speaker(processor):
    scorer = TurnScorer(tiny_model({"scope": "speaker", "max_speakers": 2}), processor)
    (cache,) = fresh(scorer)
    for name in ("Ada", "Ben"):
        scorer.score([TURNS[0]], [name], [cache])
    before = state_of(cache)
    for name, message in ((None, "has no speaker"), ("Cleo", r"has \['Ada', 'Ben', 'Cleo'\]")):
        with pytest.raises(ValueError, match=message):
            scorer.score([TURNS[0]], [name], [cache])
        assert_same_state(before, state_of(cache))
    with scorer.model.disable_memory():
        assert scorer.score([TURNS[0]], [None], [cache])[0].surprise is None
    # A state of an earlier version has the names in its history alone.
    cache.notes = {"turns": [{"speaker": "Ada"}, {"speaker": "Ben"}, {"speaker": None}]}
    with pytest.raises(ValueError, match=r"\['Ada', 'Ben', 'Cleo'\]"):
        scorer.score([TURNS[0]], ["Cleo"], [cache])


def test_names_do_not_matter_where_the_memory_is_of_the_conversation(processor):
    scorer = TurnScorer(tiny_model(), processor)
    (one,), (other,) = fresh(scorer), fresh(scorer)
    for index, waveform in enumerate(TURNS):
        (named,), (unnamed,) = (
            scorer.score([waveform], [name], [cache]) for name, cache in ((str(index), one), (None, other))
        )
        assert torch.equal(named.logits, unnamed.logits)
    assert "speakers" not in one.notes


def test_long_turns_report_how_much_was_processed(processor):
    scorer = TurnScorer(tiny_model(), processor)
    (turn,) = scorer.score([tone(4.0)], [None], fresh(scorer))
    (cut,) = scorer.score([tone(4.0)[: 3 * RATE]], [None], fresh(scorer))
    assert turn.processed_seconds == cut.processed_seconds == 3.0
    assert torch.equal(turn.logits, cut.logits)


def test_loading(processor):
    scorer = TurnScorer(tiny_model(), processor)
    np.testing.assert_array_equal(scorer.load(TURNS[0], RATE), TURNS[0])
    for audio, message in (((np.zeros(0), RATE), "empty"), ((np.zeros(9), RATE), "silent"), (b"x", "decoded")):
        with pytest.raises(ValueError, match=message):
            scorer.load(audio)
