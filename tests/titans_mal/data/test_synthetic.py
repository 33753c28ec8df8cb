import numpy as np
import pytest

from titans_mal import load_audio, synthetic_conversations
from titans_mal.data.synthetic import (
    EMOTIONS,
    LEVEL_CHANGES,
    PITCH_FACTORS,
    SAMPLING_RATE,
    Speaker,
    best_accuracy_from_utterance,
    draw_conversation,
)
from titans_mal.data.table import COLUMNS


def pitch_of(waveform: np.ndarray) -> float:
    """Median pitch in Hz of the voiced frames, from their autocorrelation."""
    size, pitches = 1024, []
    loud = 0.5 * np.sqrt(np.mean(waveform**2))
    for start in range(0, len(waveform) - size, 320):
        frame = waveform[start : start + size]
        if np.sqrt(np.mean(frame**2)) < loud:
            continue
        spectrum = np.abs(np.fft.rfft((frame - frame.mean()) * np.hanning(size), 4 * size)) ** 2
        correlation = np.fft.irfft(spectrum)
        low, high = SAMPLING_RATE // 450, SAMPLING_RATE // 55
        pitches.append(SAMPLING_RATE / (low + np.argmax(correlation[low:high])))
    return float(np.median(pitches))


def level_of(waveform: np.ndarray) -> float:
    return 20 * np.log10(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))


def speaker(**fields) -> Speaker:
    usual = {"pitch": 130, "level": -36, "tract": 1.0, "tilt": 0.8, "breath": 0.01, "rate": 4.5, "intonation": 0.03}
    return Speaker(**usual | fields)


def mean_of(measure, voice: Speaker, emotion: str) -> float:
    return float(np.mean([measure(voice.speak(emotion, np.random.default_rng(i))) for i in range(12)]))


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_an_emotion_is_a_change_of_the_speakers_own_pitch_and_level(emotion):
    voice = speaker()
    pitch, level = mean_of(pitch_of, voice, emotion), mean_of(level_of, voice, emotion)
    assert pitch == pytest.approx(130 * PITCH_FACTORS[emotion], rel=0.06)
    assert level == pytest.approx(-36 + LEVEL_CHANGES[emotion], abs=1.0)


def test_a_shorter_vocal_tract_has_higher_formants_at_the_same_pitch():
    def centroid(waveform):
        spectrum = np.abs(np.fft.rfft(waveform)) ** 2
        return (spectrum * np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE)).sum() / spectrum.sum()

    assert mean_of(centroid, speaker(tract=0.75), "neutral") > 1.1 * mean_of(centroid, speaker(tract=1.1), "neutral")
    assert mean_of(pitch_of, speaker(tract=0.75), "neutral") == pytest.approx(130, rel=0.06)


def test_the_same_seed_gives_the_same_sound():
    one, same, other = (synthetic_conversations(2, seed=seed) for seed in (3, 3, 4))
    assert one.to_dict() == same.to_dict()
    assert one[0]["audio"]["bytes"] != other[0]["audio"]["bytes"]


def test_the_table_is_that_of_conversations():
    table = synthetic_conversations(3, seed=0, turns=6)
    assert table.column_names == list(COLUMNS)
    assert len(table) == 18
    assert table.features["emotion"].names == list(EMOTIONS)
    for row in table:
        waveform = load_audio(row["audio"])
        assert len(waveform) / SAMPLING_RATE == pytest.approx(row["end"] - row["start"], abs=1e-3)
        assert np.isfinite(waveform).all()
        assert 1e-4 < np.abs(waveform).max() <= 1.0
    starts = np.array(table["start"]).reshape(3, 6)
    assert (np.diff(starts) > 0).all()


def test_conversations_begin_with_a_neutral_turn_of_each_speaker():
    for number in range(10):
        turns = draw_conversation(np.random.default_rng(number))
        assert [turn["speaker"] for turn in turns[:2]] == ["A", "B"]
        assert [turn["emotion"] for turn in turns[:2]] == ["neutral", "neutral"]
        assert {turn["speaker"] for turn in turns} == {"A", "B"}
    first = {draw_conversation(np.random.default_rng(i), introduced=False)[0]["emotion"] for i in range(20)}
    assert first == set(EMOTIONS)


def test_given_speakers_are_used():
    low, high = speaker(pitch=90.0), speaker(pitch=230.0)
    for turn in draw_conversation(np.random.default_rng(0), speakers=(low, high))[:2]:
        assert pitch_of(turn["waveform"]) == pytest.approx({"A": 90, "B": 230}[turn["speaker"]], rel=0.15)


def test_the_utterance_alone_does_not_tell_the_emotion():
    assert 0.54 < best_accuracy_from_utterance() < 0.58
