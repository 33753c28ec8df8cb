"""Turns out of a stream: by pauses of speech or by given ends, however the pieces come."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_model, tiny_processor, tone

from titans_mal import ConversationAnalyzer, TurnDetector, load_audio


RATE = 16_000
CONVERSATION = Path(__file__).resolve().parents[3] / "examples" / "quickstart" / "conversation"
RECORDINGS = [load_audio(path) for path in sorted(CONVERSATION.glob("turn_*.wav"))[:4]]


def stream(pause: float = 0.8) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The turns of the quickstart with pauses between them, and when each is."""
    silence, parts, times = np.zeros(round(pause * RATE), np.float32), [], []
    for audio in RECORDINGS:
        parts.append(silence)
        start = sum(map(len, parts))
        parts.append(audio)
        times.append((start / RATE, (start + len(audio)) / RATE))
    return np.concatenate([*parts, silence]), times


def detect(detector, audio, rate=RATE, size=1000):
    turns = [turn for i in range(0, len(audio), size) for turn in detector.feed(audio[i : i + size], rate)]
    return turns + detector.flush()


def test_speech_is_cut_at_its_pauses():
    audio, times = stream()
    turns = detect(TurnDetector(), audio)
    assert len(turns) == len(times)
    for turn, (start, end) in zip(turns, times):
        assert turn.start == pytest.approx(start, abs=0.25)
        assert turn.end == pytest.approx(end, abs=0.25)
        np.testing.assert_array_equal(turn.waveform, audio[round(turn.start * RATE) : round(turn.end * RATE)])


@pytest.mark.parametrize("size", [1, 160, 4096, 10**9])
def test_the_size_of_the_pieces_does_not_matter(size):
    audio = stream()[0][: 3 * RATE if size == 1 else None]
    turns, expected = (detect(TurnDetector(), audio, size=n) for n in (size, 1000))
    assert [(turn.start, turn.end) for turn in turns] == [(turn.start, turn.end) for turn in expected]
    for turn, other in zip(turns, expected):
        np.testing.assert_array_equal(turn.waveform, other.waveform)


def test_given_ends():
    audio = tone(5.0)
    turns = detect(TurnDetector(ends=[1.0, 1.05, 2.5]), audio)
    # A turn of 0.05 s is too short; after the last end, nothing is a turn.
    assert [(turn.start, turn.end) for turn in turns] == [(0.0, 1.0), (1.05, 2.5)]
    np.testing.assert_array_equal(turns[1].waveform, audio[round(1.05 * RATE) : round(2.5 * RATE)])
    # The stream may end before.
    turns = detect(TurnDetector(ends=[1.0, 10.0]), audio)
    assert [(turn.start, turn.end) for turn in turns] == [(0.0, 1.0), (1.0, 5.0)]


def test_long_turns_are_cut_and_nothing_grows():
    detector = TurnDetector(max_seconds=1.0, min_silence=0.3)
    speech = np.concatenate([audio for audio in RECORDINGS for _ in range(3)])
    turns = detect(detector, speech)
    assert max(len(turn.waveform) for turn in turns) == RATE
    assert sum(turn.end - turn.start for turn in turns) > 0.8 * len(speech) / RATE
    turns = detect(TurnDetector(ends=[2.5], max_seconds=1.0), tone(3.0), size=10**6)
    assert [(turn.start, turn.end) for turn in turns] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    quiet = TurnDetector()
    for _ in range(50):
        assert quiet.feed(np.zeros(RATE, np.float32), RATE) == []
    assert len(quiet._audio) <= RATE
    assert quiet.flush() == []


def test_other_rates_and_a_rate_that_changes():
    audio, times = stream()
    slow = audio.reshape(-1, 1)[: len(audio) // 2 * 2].reshape(-1, 2).mean(1).astype(np.float32)
    for turns in (
        detect(TurnDetector(), slow, rate=8000),
        detect(TurnDetector(), (audio * 32767).astype(np.int16)),
    ):
        assert [turn.start for turn in turns] == pytest.approx([start for start, _ in times], abs=0.3)
    detector, half = TurnDetector(), len(slow) // 2
    turns = detector.feed(slow[:half], 8000) + detector.feed(audio[2 * half :], RATE) + detector.flush()
    assert [turn.start for turn in turns] == pytest.approx([start for start, _ in times], abs=0.3)


def test_a_bad_piece_is_rejected_and_the_stream_continues():
    detector = TurnDetector(ends=[1.0])
    detector.feed(tone(0.5), RATE)
    for chunk, rate, message in (
        (np.zeros((2, 10)), RATE, r"got float64 \(2, 10\)"),
        (np.zeros(10, int), RATE, "16-bit integers"),
        (np.array([0.0, 30.0, -12.0], np.float32), RATE, "holds integers as float32 with a peak of 30"),
        (np.array([0.0, 300.0, -12.0], np.float32), RATE, "has a peak of 300"),
        (np.full(10, np.nan), RATE, "not finite"),
        (np.zeros(10), 0, "got 0"),
        (np.zeros(10), 16000.5, "got 16000.5"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.feed(chunk, rate)
    (turn,) = detector.feed(tone(0.5), RATE)
    assert (turn.start, turn.end) == (0.0, 1.0)


def test_wrong_settings():
    for wrong in ({"min_silence": 0}, {"max_seconds": 0.1}, {"threshold": 1.0}):
        with pytest.raises(ValueError, match="min_silence must be between"):
            TurnDetector(**wrong)
    for ends in ([1.0, 1.0], [0.0], [2.0, 1.0]):
        with pytest.raises(ValueError, match="ends must increase"):
            TurnDetector(ends=ends)


def test_an_analyzer_processes_a_stream():
    model, processor = tiny_model(), tiny_processor()
    audio, times = stream()
    live = ConversationAnalyzer(model, processor)
    live.push(tone(0.5), RATE)
    pieces = (audio[i : i + 1600] for i in range(0, len(audio), 1600))
    scored = list(live.push_stream(pieces, RATE, speaker="A"))
    assert [turn.start for turn in scored] == pytest.approx([0.5 + start for start, _ in times], abs=0.25)
    assert {turn.speaker for turn in scored} == {"A"}
    assert live.history[1:] == scored
    known = ConversationAnalyzer(model, processor)
    known.push(tone(0.5), RATE)
    ends = [turn.end - 0.5 for turn in scored]
    assert len(list(known.push_stream([audio], RATE, ends=ends))) == len(ends)
