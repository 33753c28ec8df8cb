"""Turns that are longer than the host's window, as several cut at their pauses: the same pieces at every live door."""

import itertools

import numpy as np
import pytest
from audio_files import to_wav
from fastapi.testclient import TestClient
from tiny_models import tone

from titans_mal import (
    AudioEmotionPipeline,
    ConversationAnalyzer,
    ConversationMemoryCache,
    ConversationPool,
    load_audio,
)
from titans_mal.live.pool import PoolError
from titans_mal.live.turns import TurnEmotion, answered_before, key_of_part, remember
from titans_mal.server import create_app


RATE = 16_000
# Longer than the window of 3 s, with a pause and with a piece that is silent.
SPOKEN = np.concatenate([tone(2.5), np.zeros(1600), tone(2.0, frequency=330.0)])
LONG = load_audio(to_wav(np.concatenate([SPOKEN, np.zeros(7 * RATE), tone(1.0)])))


@pytest.fixture(scope="module")
def pieces(model, processor):
    """What the pipeline makes of the turn."""
    pipe = AudioEmotionPipeline(model=model, processor=processor)
    return pipe({"audio": (LONG, RATE), "speaker": "A", "start": 0.0}, split_long=True)


def assert_pieces(turns, pieces, offset=0.0, first=0):
    turns = [turn if isinstance(turn, dict) else vars(turn) for turn in turns]
    assert [turn["turn_index"] for turn in turns] == list(range(first, first + len(pieces)))
    for turn, piece in zip(turns, pieces, strict=True):
        assert (turn["start"], turn["end"]) == pytest.approx((piece["start"] + offset, piece["end"] + offset))
        assert turn["processed_seconds"] == pytest.approx(piece["processed_seconds"])
        if not first:
            assert turn["scores"] == pytest.approx(piece["scores"], abs=1e-5)


def test_the_turn_of_these_tests_has_a_silent_piece(pieces):
    assert len(pieces) > 2
    assert any(later["start"] > piece["end"] for piece, later in itertools.pairwise(pieces))


def test_a_live_conversation(model, processor, pieces, monkeypatch):
    analyzer = ConversationAnalyzer(model, processor)
    assert_pieces(analyzer.push_split(LONG, RATE, speaker="A"), pieces)
    first, end = len(pieces), pieces[-1]["end"]
    assert_pieces(analyzer.push_split(LONG, RATE, start=100.0), pieces, offset=100.0, first=first)
    (short,) = analyzer.push_split(tone(0.5), RATE)
    assert (short.start, short.end) == pytest.approx((100.0 + end, 100.5 + end))
    # A piece that cannot be scored leaves the conversation as it was before the whole turn.
    before, scored = analyzer.history, []
    real = analyzer._scorer.score
    monkeypatch.setattr(analyzer._scorer, "score", lambda *given: real(*given) if not scored else 1 / 0)
    monkeypatch.setattr("titans_mal.live.analyzer.remember", lambda cache, turn: scored.append(turn))
    with pytest.raises(ZeroDivisionError):
        analyzer.push_split(LONG, RATE)
    assert (analyzer.history, int(analyzer._cache.turns.sum())) == (before, len(before))


def test_a_stream(model, processor):
    options = {"ends": [len(SPOKEN) / RATE], "speaker": "A"}
    turns = [*ConversationAnalyzer(model, processor).push_stream([SPOKEN], RATE, split_long=True, **options)]
    assert_pieces(turns, [vars(turn) for turn in ConversationAnalyzer(model, processor).push_split(SPOKEN, RATE)])


def test_many_conversations(model, processor, pieces):
    with ConversationPool(model, processor, max_waiting=len(pieces) + 1) as pool:
        turns = [one.result() for one in pool.submit_split("a", LONG, RATE, speaker="A", retry_key="k", reset=True)]
        assert_pieces(turns, pieces)
        # Sent again, nothing is written; later pieces follow the last turn, with the silence between them.
        assert [one.result() for one in pool.submit_split("a", LONG, RATE, retry_key="k", reset=True)] == turns
        later = [one.result() for one in pool.submit_split("a", LONG, RATE)]
        assert_pieces(later, pieces, offset=pieces[-1]["end"], first=len(pieces))
        assert pool.history("a") == turns + later
    # All pieces wait, or none.
    with ConversationPool(model, processor, max_waiting=2, max_batch=2, max_wait_ms=10_000) as pool:
        waiting = pool.submit("b", tone(0.5), RATE)
        with pytest.raises(PoolError, match="The queue is full: 1 turns are waiting"):
            pool.submit_split("b", LONG, RATE)
        assert pool.counters()["waiting"] == 1
    assert waiting.result().turn_index == 0


def test_keys_are_kept_by_request(model):
    cache = ConversationMemoryCache(model.config)
    for index, key in enumerate([*(key_of_part("k", part) for part in range(40)), *map(str, range(31))]):
        remember(cache, TurnEmotion(index, None, 0.0, 1.0, None, None, {}, 0.0, 0.0), key)
    assert [answered_before(cache, key_of_part("k", part)).turn_index for part in range(40)] == list(range(40))
    remember(cache, TurnEmotion(71, None, 0.0, 1.0, None, None, {}, 0.0, 0.0), "31")
    assert answered_before(cache, key_of_part("k", 0)) is None


def test_over_http(model, processor, pieces):
    with TestClient(create_app(ConversationPool(model, processor))) as client:

        def post(name="a", content=LONG, **query):
            given = {"content": to_wav(content), "headers": {"Idempotency-Key": "k"}}
            return client.post(f"/conversations/{name}/turns", params={"split_long": True, **query}, **given)

        answer, again = (post(speaker="A").json() for _ in range(2))
        assert_pieces(answer["turns"], pieces)
        assert all(turn["cut_seconds"] == 0 for turn in answer["turns"])
        assert answer == again
        assert client.get("/conversations/a").json() == answer["turns"]
        assert len(post("short", tone(0.5)).json()["turns"]) == 1
        assert post("silent", np.zeros(RATE)).status_code == 422


def test_channels_and_streams_over_http(model, processor, monkeypatch):
    """What is cut out of a longer recording is split, too."""
    monkeypatch.setattr("titans_mal.live.turn_detector._silero", lambda *given: SpeechFromTheStart())
    with TestClient(create_app(ConversationPool(model, processor))) as client:
        query = "channels=2&speakers=A,B&split_long=true"
        given = {"content": to_wav(np.stack([SPOKEN, SPOKEN])), "headers": {"Idempotency-Key": "k"}}
        answer, again = (client.post(f"/conversations/a/turns?{query}", **given).json() for _ in range(2))
        assert answer == again
        assert [turn["speaker"] for turn in answer["turns"]] == ["A", "A", "B", "B"]
        with client.websocket_connect(f"/conversations/b/stream?{query}") as stream:
            stream.send_bytes((np.stack([SPOKEN, SPOKEN]) * 32767).astype("<i2").T.tobytes())
            stream.send_json({"end": True})
            turns = [stream.receive_json() for _ in range(4)]
    for turn, other in zip(turns, answer["turns"], strict=True):
        assert (turn["speaker"], turn["cut_seconds"], other["cut_seconds"]) == (other["speaker"], 0, 0)
        assert (turn["start"], turn["end"]) == pytest.approx((other["start"], other["end"]))


class SpeechFromTheStart:
    """A detector of speech for which all is speech."""

    current_sample = 0

    def __call__(self, window):
        return {"start": 0}

    def reset_states(self):
        pass
