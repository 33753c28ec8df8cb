import numpy as np
import pytest

from titans_mal.data.synthetic.suites import (
    EMOTION_CHANGES,
    EMOTIONS,
    NEUTRAL,
    SPEAKER_SPREAD,
    SUITES,
    Speaker,
    Suite,
    baseline,
    carry_over,
    delayed_binding,
    emotional_start,
    interleaved,
    null,
)
from titans_mal.data.synthetic.voices import Voice


def scripts(suite: Suite, number: int = 200):
    return [suite.draw(np.random.default_rng((9, i))) for i in range(number)]


@pytest.mark.parametrize("name", SUITES)
def test_the_same_seed_gives_the_same_script(name):
    suite = SUITES[name]()
    one, same, other = (suite.draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == same
    assert one != other
    assert {turn.speaker for turn in one.turns} == set(range(len(one.voices)))


def test_an_emotion_is_a_change_of_the_speakers_own_pitch_and_level():
    speaker = Speaker(0.2, -3.0, Voice.draw(np.random.default_rng(0)))
    for number in range(100):
        for turn in baseline().draw(np.random.default_rng(number), speakers=(speaker, speaker)).turns:
            change = np.array([turn.pitch - 0.2, turn.level + 3.0])
            assert np.abs((change - EMOTION_CHANGES[turn.emotion]) / (0.04, 1.2)).max() < 5


def test_speakers_differ_as_they_should():
    first = np.array([(s.turns[0].pitch, s.turns[0].level) for s in scripts(baseline(spread=2.0), 1000)])
    np.testing.assert_allclose(first.std(0), 2 * SPEAKER_SPREAD, rtol=0.1)


def test_in_the_baseline_both_begin_neutral():
    for script in scripts(baseline()):
        assert [turn.speaker for turn in script.turns[:2]] == [0, 1]
        assert [turn.is_introduction for turn in script.turns] == [True, True] + [False] * 6
        assert {turn.emotion for turn in script.turns[:2]} == {NEUTRAL}
    emotions = [turn.emotion for script in scripts(baseline()) for turn in script.turns[2:]]
    np.testing.assert_allclose(np.bincount(emotions) / len(emotions), 1 / len(EMOTIONS), atol=0.05)


@pytest.mark.parametrize("speakers", [2, 8])
def test_interleaved_speakers_each_begin_neutral(speakers):
    for script in scripts(interleaved(speakers=speakers), 50):
        assert len(script.turns) == 4 * speakers
        met = set()
        for turn in script.turns:
            assert turn.is_introduction == (turn.speaker not in met)
            assert turn.emotion == NEUTRAL or not turn.is_introduction
            met.add(turn.speaker)


def test_with_an_emotional_start_any_emotion_begins_and_voices_drift():
    drawn = scripts(emotional_start(drift=0.5))
    assert {script.turns[0].emotion for script in drawn} == set(range(len(EMOTIONS)))
    assert not any(turn.is_introduction for script in drawn for turn in script.turns)
    walked = []
    for script in drawn:
        of_first = [turn for turn in script.turns if turn.speaker == 0]
        pitches = [turn.pitch - EMOTION_CHANGES[turn.emotion][0] for turn in of_first]
        walked += np.diff(pitches).tolist()
    assert np.std(walked) == pytest.approx(np.hypot(0.5 * 0.30, np.sqrt(2) * 0.04), rel=0.1)


def test_a_carried_emotion_stays_and_is_not_always_shown():
    drawn = scripts(carry_over(stay=0.8, whispered=0.3))
    stays = [a.emotion == b.emotion for s in drawn for a, b in zip(s.turns, s.turns[1:])]
    assert np.mean(stays) == pytest.approx(0.8 + 0.2 / 4, abs=0.03)
    turns = [turn for script in drawn for turn in script.turns]
    assert np.mean([turn.is_whispered for turn in turns]) == pytest.approx(0.3, abs=0.03)
    assert max(abs(turn.pitch) for turn in turns if turn.is_whispered) < 5 * 0.04


@pytest.mark.parametrize("delay", [1, 8])
def test_with_a_delayed_binding_a_speaker_returns_after_that_many_turns(delay):
    for script in scripts(delayed_binding(delay=delay), 5):
        first = {}
        for index, turn in enumerate(script.turns):
            assert index - first.setdefault(turn.speaker, index) in (0, delay + 1)
            assert turn.is_introduction == (first[turn.speaker] == index)


def test_in_null_every_turn_has_a_new_speaker():
    for script in scripts(null(turns=6), 20):
        assert [turn.speaker for turn in script.turns] == list(range(6))


def test_invalid_suites_are_rejected():
    with pytest.raises(ValueError, match="speakers must be 2 to 8, got 9"):
        interleaved(speakers=9)
    with pytest.raises(ValueError, match="spread and drift must be 0, got 1"):
        Suite("mine", lambda rng: [0, 1], stay=0.5)
