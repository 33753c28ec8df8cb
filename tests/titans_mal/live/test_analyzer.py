"""One live conversation: it equals the pipeline, goes on from a folder, and survives a turn that fails."""

import threading

import numpy as np
import pytest
from tiny_models import tiny_model, tone

from titans_mal import AudioEmotionPipeline, ConversationAnalyzer, ConversationMemoryCache


RATE = 16_000
TURNS = [tone(0.5 + 0.1 * i, frequency=120 + 40 * i) for i in range(5)]


def push_all(analyzer, turns, first=0):
    return [analyzer.push(turn, RATE, speaker="AB"[i % 2]) for i, turn in enumerate(turns, start=first)]


def without_latency(turns):
    return [{**vars(turn), "latency": None} for turn in turns]


def test_turns_are_those_of_the_pipeline(model, processor):
    analyzer = ConversationAnalyzer(model, processor)
    scored = push_all(analyzer, TURNS)
    expected = AudioEmotionPipeline(model=model, processor=processor)([(turn, RATE) for turn in TURNS])
    for turn, other in zip(scored, expected):
        assert turn.label == other["label"]
        assert turn.scores == pytest.approx(other["scores"], abs=1e-6)
        assert turn.surprise == pytest.approx(other["surprise"], abs=1e-6)
        assert turn.latency > 0
    assert analyzer.history == scored
    assert [turn.turn_index for turn in scored] == list(range(5))
    # Without times, turns follow each other.
    lengths = np.array([len(turn) for turn in TURNS]) / RATE
    np.testing.assert_allclose([turn.end for turn in scored], np.cumsum(lengths))


def test_state_does_not_grow_and_is_forgotten(model, processor):
    analyzer = ConversationAnalyzer(model, processor)
    first = push_all(analyzer, TURNS)
    size = analyzer.nbytes
    push_all(analyzer, TURNS)
    assert analyzer.nbytes == size > 0
    analyzer.reset()
    assert analyzer.nbytes == 0
    assert analyzer.history == []
    assert without_latency(push_all(analyzer, TURNS)) == without_latency(first)


def test_it_continues_from_a_folder(model, processor, tmp_path):
    whole = ConversationAnalyzer(model, processor)
    push_all(whole, TURNS)
    first = ConversationAnalyzer(model, processor)
    push_all(first, TURNS[:2])
    first.save(tmp_path)
    second = ConversationAnalyzer(model, processor)
    second.push(TURNS[4], RATE)  # replaced by what is loaded
    second.load(tmp_path)
    push_all(second, TURNS[2:], first=2)
    assert without_latency(second.history) == without_latency(whole.history)


def test_a_failed_load_leaves_the_conversation_unchanged(model, processor, tmp_path):
    analyzer = ConversationAnalyzer(model, processor)
    push_all(analyzer, TURNS[:2])
    before = analyzer.history
    with pytest.raises(FileNotFoundError):
        analyzer.load(tmp_path)
    analyzer.save(tmp_path)
    cache = ConversationMemoryCache.from_pretrained(tmp_path, model.config)
    for turns, message in (
        (cache.notes["turns"][:1], "state of 2 turns, but the history of 1"),
        ([{"label": 1}], "read"),
    ):
        cache.notes = {"turns": turns}
        cache.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            analyzer.load(tmp_path)
    other = ConversationAnalyzer(tiny_model(seed=1), processor)
    other.push(TURNS[0], RATE)
    with pytest.raises(ValueError, match="other weights"):
        other.load(tmp_path)
    assert analyzer.history == before


def test_a_turn_that_fails_changes_nothing(model, processor):
    analyzer, other = (ConversationAnalyzer(model, processor) for _ in range(2))
    push_all(analyzer, TURNS[:2])
    push_all(other, TURNS[:2])
    end = analyzer.history[-1].end
    for audio, options, message in (
        (np.zeros(RATE), {}, "silent"),
        (np.full(RATE, np.nan), {}, "not finite"),
        (TURNS[2][:0], {}, "no samples|empty"),
        (TURNS[2], {"start": -0.5}, "a turn must start at 0 s or later, got -0.5 s"),
        (TURNS[2], {"start": float("nan")}, "got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            analyzer.push(audio, RATE, **options)
    # Turns may overlap, and have a rate of their own.
    turn = analyzer.push(np.repeat(TURNS[2], 2), 2 * RATE, start=0.1)
    assert turn.start == 0.1 < end
    assert turn.scores == pytest.approx(other.push(TURNS[2], RATE).scores, abs=0.02)
    assert len(analyzer.history) == 3


def test_some_labels_and_unknown(model, processor):
    everything = ConversationAnalyzer(model, processor).push(TURNS[0], RATE)
    analyzer = ConversationAnalyzer(model, processor, labels=["sad", "neutral"], unknown_below=1.0)
    turn = analyzer.push(TURNS[0], RATE)
    assert list(turn.scores) == ["sad", "neutral"]
    total = everything.scores["sad"] + everything.scores["neutral"]
    assert turn.scores["sad"] == pytest.approx(everything.scores["sad"] / total, abs=1e-6)
    assert turn.label == "unknown"
    assert turn.score == max(turn.scores.values())
    for options, message in (
        ({"labels": ["bored"]}, r"labels must be different labels out of \['neutral', .* got \['bored'\]"),
        ({"labels": []}, "labels must be different labels out of"),
        ({"labels": ["sad", "sad"]}, "labels must be different"),
        ({"unknown_below": 1.5}, r"unknown_below must be in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            ConversationAnalyzer(model, processor, **options)


def test_memory_by_speaker(processor):
    analyzer = ConversationAnalyzer(tiny_model({"scope": "speaker", "max_speakers": 2}), processor)
    analyzer.push(TURNS[0], RATE, speaker="A")
    with pytest.raises(ValueError, match="speaker"):
        analyzer.push(TURNS[1], RATE)
    analyzer.push(TURNS[1], RATE, speaker="B")
    with pytest.raises(ValueError, match="max_speakers"):
        analyzer.push(TURNS[2], RATE, speaker="C")
    assert [turn.speaker for turn in analyzer.history] == ["A", "B"]


def test_threads_share_a_model(model, processor):
    """Four conversations at once, and four pushes to one."""
    serial = [without_latency(push_all(ConversationAnalyzer(model, processor), TURNS[i:])) for i in range(4)]
    analyzers = [ConversationAnalyzer(model, processor) for _ in range(4)]
    threads = [threading.Thread(target=push_all, args=(a, TURNS[i:])) for i, a in enumerate(analyzers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for analyzer, expected in zip(analyzers, serial):
        for turn, other in zip(without_latency(analyzer.history), expected):
            assert turn["scores"] == pytest.approx(other["scores"], abs=1e-5)
    shared = ConversationAnalyzer(model, processor)
    threads = [threading.Thread(target=shared.push, args=(turn, RATE)) for turn in TURNS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [turn.turn_index for turn in shared.history] == list(range(5))
