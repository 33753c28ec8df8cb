"""Calls with one speaker per channel, live and as files."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from audio_files import RATE, to_wav
from starlette.websockets import WebSocketDisconnect

from titans_mal import load_audio


CLIPS = sorted((Path(__file__).resolve().parents[3] / "examples/quickstart/conversation").glob("turn_*.wav"))[2:5]
# Channel and start of each turn; the last two overlap.
TURNS = ((0, 1.0), (1, 5.0), (0, 5.8))
QUERY = {"channels": "2", "speakers": "caller,agent"}


@pytest.fixture(scope="module")
def call():
    """(channels, samples) in which each channel leaks into the other one, 26 dB weaker."""
    clean = np.zeros((2, 10 * RATE), np.float32)
    for path, (channel, start) in zip(CLIPS, TURNS):
        clip = load_audio(path)
        clean[channel, round(start * RATE) :][: len(clip)] += clip
    return clean + 0.05 * clean[::-1]


def assert_all_turns_of_both(turns):
    by_start = sorted(turns, key=lambda turn: turn["start"])
    assert [turn["speaker"] for turn in by_start] == ["caller", "agent", "caller"]
    assert [turn["start"] for turn in by_start] == pytest.approx([start for _, start in TURNS], abs=0.25)
    assert [turn["turn_index"] for turn in turns] == [0, 1, 2]
    ends = [turn["end"] for turn in turns]
    assert ends == sorted(ends)


def test_two_overlapping_speakers_of_one_stream(serve, call):
    client = serve()
    content = np.round(call.T * 32767).astype("<i2").tobytes()
    turns = []
    with client.websocket_connect("/conversations/a/stream", params={**QUERY, "score": "caller"}) as stream:
        for start in range(0, len(content), 64_000):
            stream.send_bytes(content[start : start + 64_000])
        for message, expected in (
            (content[:2], "for each of 2 channels: 2 bytes"),
            ('{"speaker": "caller"}', "cannot change within a stream"),
        ):
            (stream.send_bytes if isinstance(message, bytes) else stream.send_text)(message)
            while "error" not in (answer := stream.receive_json()):
                turns.append(answer)
            assert expected in answer["error"]
        stream.send_json({"end": True})
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                turns.append(stream.receive_json())
    assert_all_turns_of_both(turns)
    assert [turn["label"] is None for turn in turns] == [turn["speaker"] == "agent" for turn in turns]
    assert turns == client.get("/conversations/a").json()


def test_a_stereo_file_has_the_turns_of_both(serve, call):
    client = serve()
    answer = client.post(
        "/conversations/a/turns", content=to_wav(call), params={**QUERY, "score": "agent"},
        headers={"Idempotency-Key": "k"},
    )  # fmt: skip
    assert answer.status_code == 200
    body = answer.json()
    assert (body["conversation"], body["errors"]) == ("a", [])
    assert_all_turns_of_both(body["turns"])
    assert [turn["label"] is None for turn in body["turns"]] == [turn["speaker"] == "caller" for turn in body["turns"]]
    # The next file of the call goes on where the last turn ended; times may be given, too.
    last = max(turn["end"] for turn in body["turns"])
    alone = {"content": to_wav(call[:, : 5 * RATE]), "params": QUERY}
    (turn,) = client.post("/conversations/a/turns", **alone).json()["turns"]
    assert turn["start"] == pytest.approx(last + 1.0, abs=0.25)
    alone["params"] = {**QUERY, "start": 100, "reset": True}
    (turn,) = client.post("/conversations/a/turns", **alone).json()["turns"]
    assert (turn["turn_index"], turn["start"]) == (0, pytest.approx(101.0, abs=0.25))
    # Sent again with its key, all of it is answered, and nothing is written or forgotten.
    again = {**alone, "headers": {"Idempotency-Key": "again"}}
    one, other = (client.post("/conversations/a/turns", **again).json()["turns"] for _ in range(2))
    assert one == other == client.get("/conversations/a").json()
    mono = client.post("/conversations/a/turns", content=to_wav(call[0]), params=QUERY)
    assert (mono.status_code, "The audio has 1 channels" in mono.json()["detail"]) == (422, True)
