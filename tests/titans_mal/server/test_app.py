"""The server over HTTP and WebSocket: what it answers, what it refuses, and how it stops."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
from audio_files import encode
from starlette.websockets import WebSocketDisconnect
from tiny_models import tone

from titans_mal import ConversationAnalyzer, load_audio
from titans_mal.server import ServerSettings


RATE = 16_000
QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
SPEECH = [load_audio(path) for path in sorted((QUICKSTART / "conversation").glob("turn_*.wav"))[:3]]


def wav(samples, rate=RATE) -> bytes:
    file = io.BytesIO()
    scipy.io.wavfile.write(file, rate, samples)
    return file.getvalue()


def flac_that_declares(seconds, samples) -> bytes:
    """A file whose header declares another length than it has."""
    data = bytearray(encode(samples, "flac", "flac"))
    data[22:26] = round(seconds * RATE).to_bytes(4, "big")
    return bytes(data)


# FFmpeg would listen for it on the network.
SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n"


def turns_alone(model, processor, recordings, **kwargs):
    analyzer = ConversationAnalyzer(model, processor)
    return [analyzer.push(audio, RATE, **kwargs) for audio in recordings]


def test_turns_over_http(serve, model, processor):
    client, recordings = serve(), [tone(0.5, frequency=200 + 50 * i) for i in range(3)]
    expected = turns_alone(model, processor, recordings, speaker="A")
    for audio, turn in zip(recordings, expected):
        answer = client.post("/conversations/call 17/turns", content=wav(audio), params={"speaker": "A"})
        assert answer.status_code == 200
        scored = answer.json()
        assert (scored["turn_index"], scored["speaker"], scored["label"]) == (turn.turn_index, "A", turn.label)
        assert scored["scores"] == pytest.approx(turn.scores, abs=1e-5)
    history = client.get("/conversations/call 17").json()
    assert [turn["end"] for turn in history] == [turn.end for turn in expected]
    again = client.post("/conversations/call 17/turns", content=wav(recordings[2]), params={"reset": True}).json()
    assert again["turn_index"] == 0
    assert client.delete("/conversations/call 17").status_code == 204
    assert client.get("/conversations/call 17").status_code == 404
    metrics = client.get("/metrics").text
    assert "titans_mal_turns_total 4.0" in metrics
    assert "titans_mal_latency_seconds_count 4.0" in metrics
    assert 'titans_mal_batch_turns_bucket{le="1.0"} 4.0' in metrics
    assert 'titans_mal_stage_seconds_count{stage="forward"} 4.0' in metrics
    assert client.get("/health").json()["status"] == "ok"
    interface = client.get("/openapi.json").json()
    assert {"/conversations/{name}/turns", "/conversations/{name}", "/health"} <= {*interface["paths"]}


def test_rejected_requests(serve):
    client = serve(ServerSettings(max_megabytes=0.2, max_seconds=1.0, max_conversations=2))
    good = wav(tone(0.5))

    def post(content, name="a", **params):
        answer = client.post(f"/conversations/{name}/turns", content=content, params=params)
        return answer.status_code, answer.json().get("detail")

    assert post(good, start=3.0)[0] == 200
    for status, message, answer in (
        (422, "The body is empty", post(b"")),
        (422, "cannot be decoded", post(b"no audio")),
        (422, "silent", post(wav(np.zeros(RATE, np.int16)))),
        (422, "a turn must start at 0 s or later", post(good, start=-1.0)),
        (422, "start", post(good, start="soon")),
        (413, "up to 0.2 MB", post(b"0" * 210_000)),
        (413, "up to 1 s", post(wav(tone(1.2)))),
        (413, "up to 1 s", post(flac_that_declares(0.5, tone(30.0)))),
        (422, "cannot be decoded", post(SDP)),
        (422, "cannot be decoded", post(b"no audio", "never used")),
    ):
        assert answer[0] == status
        assert message in str(answer[1])
    assert post(good, "b")[0] == 200
    assert post(good, "c") == (503, "The limit of 2 conversations is reached.")
    assert client.delete("/conversations/b").status_code == 204
    assert post(good, "c")[0] == 200
    assert len(client.get("/conversations/a").json()) == 1


def test_audio_beyond_full_scale_leaves_the_call_as_it_was(serve, model, processor):
    """Finite samples whose features are not: the turn is refused, and the call goes on as if it had not been."""
    client, recordings = serve(), [tone(0.5, frequency=200 + 50 * i) for i in range(2)]
    first, second = turns_alone(model, processor, recordings)
    assert client.post("/conversations/a/turns", content=wav(recordings[0])).json()["label"] == first.label
    for peak in (1e19, 3e38):
        answer = client.post("/conversations/a/turns", content=wav(np.full(8000, peak, np.float32)))
        assert answer.status_code == 422
        assert f"a peak of {peak:.4g}" in answer.json()["detail"]
    answer = client.post("/conversations/a/turns", content=wav(recordings[1])).json()
    assert (answer["turn_index"], answer["label"]) == (1, second.label)
    assert answer["scores"] == pytest.approx(second.scores, abs=1e-5)


def test_a_token(serve):
    client = serve(ServerSettings(token="secret"))
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic secret"}):
        assert client.get("/conversations/a", headers=headers).status_code == 401
        assert client.post("/conversations/a/turns", content=wav(tone(0.5)), headers=headers).status_code == 401
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/conversations/a/stream", headers=headers):
            pass
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/conversations/a/turns", content=wav(tone(0.5)), headers=headers).status_code == 200
    with client.websocket_connect("/conversations/a/stream", headers=headers) as stream:
        stream.send_json({"end": True})
    assert client.get("/health").status_code == 200


def test_slow_and_excessive_requests(serve):
    client = serve(ServerSettings(turn_seconds=0.01), max_batch=100, max_wait_ms=1000, max_waiting=1)
    content = wav(tone(0.5))
    answers = [client.post(f"/conversations/{name}/turns", content=content) for name in "ab"]
    assert [answer.status_code for answer in answers] == [504, 503]
    assert answers[0].json()["detail"] == "No answer within 0.01 s; the turn is withdrawn."
    time.sleep(1.2)
    assert client.get("/conversations/a").status_code == 404
    assert client.post("/conversations/b/turns", content=content).status_code == 504  # the worker goes on


def pcm(audio) -> bytes:
    return (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()


def test_a_stream(serve, model, processor):
    client = serve()
    silence = np.zeros(RATE, np.float32)
    client.post("/conversations/a/turns", content=wav(tone(0.5)), params={"speaker": "B"})
    turns = []
    with client.websocket_connect("/conversations/a/stream?speaker=A") as stream:
        for place, audio in enumerate(SPEECH):
            if place == 2:
                stream.send_json({"speaker": "C"})
            content = pcm(np.concatenate([audio, silence]))
            for i in range(0, len(content), 3200):
                stream.send_bytes(content[i : i + 3200])
            turns.append(stream.receive_json())
        for message, error in (
            (b"odd", "are not a multiple"),
            ("no json", "Expecting value"),
            ('{"volume": 11}', "speaker, person, sampling_rate, end"),
            ('{"sampling_rate": "high"}', "sampling_rate: Input should be a valid integer"),
            ('{"sampling_rate": 5}', "sampling_rate: Input should be greater than or equal to 1000"),
        ):
            (stream.send_bytes if isinstance(message, bytes) else stream.send_text)(message)
            assert error in stream.receive_json()["error"]
        # The last turn is answered, though it did not end by itself.
        stream.send_bytes(pcm(SPEECH[0]))
        stream.send_json({"end": True})
        turns.append(stream.receive_json())
        with pytest.raises(WebSocketDisconnect):
            stream.receive_json()
    assert [turn["turn_index"] for turn in turns] == [1, 2, 3, 4]
    assert [turn["speaker"] for turn in turns] == ["A", "A", "C", "C"]
    starts = [turn["start"] for turn in turns]
    assert starts == sorted(starts)
    assert starts[0] == pytest.approx(0.5, abs=0.3)
    assert turns == [turn for turn in client.get("/conversations/a").json() if turn["turn_index"]]


def test_a_server_that_stops_answers_the_open_turns_of_streams(serve):
    client = serve()
    with client.websocket_connect("/conversations/a/stream?speaker=B") as stream:
        stream.send_bytes(pcm(SPEECH[0]))
        stream.send_text("{}")
        assert "error" in stream.receive_json()  # what was sent before has been processed
        client.portal.call(client.app.state.service.end_streams)
        assert stream.receive_json()["speaker"] == "B"
        with pytest.raises(WebSocketDisconnect) as closed:
            stream.receive_json()
        assert (closed.value.code, closed.value.reason) == (1012, "The server stops.")
    assert len(client.get("/conversations/a").json()) == 1


def test_the_turn_of_a_disconnected_client_is_discarded(serve):
    client = serve()
    with client.websocket_connect("/conversations/a/stream") as stream:
        stream.send_bytes(pcm(np.concatenate([SPEECH[0], np.zeros(RATE, np.float32)])))
        stream.receive_json()
        stream.send_bytes(pcm(SPEECH[1][:8000]))
    assert len(client.get("/conversations/a").json()) == 1
    assert client.post("/conversations/a/turns", content=wav(tone(0.5))).json()["turn_index"] == 1


def test_wrong_settings():
    with pytest.raises(ValueError, match="limits of a server must be above 0"):
        ServerSettings(max_megabytes=0)
    with pytest.raises(ValueError, match="token must be ASCII"):
        ServerSettings(token="")


class Server:
    """`titans-mal serve` in a process."""

    def __init__(self, *arguments: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "titans_mal.cli", "serve", "--port", str(self.port), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return self
            except OSError:
                time.sleep(0.2)
        self.process.kill()
        pytest.fail(f"The server does not answer: {self.process.communicate()[0]}")

    def __exit__(self, *exc_info):
        self.process.send_signal(signal.SIGTERM)
        self.output = self.process.communicate(timeout=60)[0]

    def post(self, name: str, content: bytes) -> dict:
        import json

        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/conversations/{name}/turns", content)
        request.add_header("Content-Type", "audio/wav")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.mark.slow
def test_a_server_that_is_stopped_under_load_answers_what_it_accepted(tmp_path):
    """Turns that wait when SIGTERM comes are answered and saved; the next server goes on from them."""
    body, answers = wav(tone(2.0)), []
    calls = [f"call-{i}" for i in range(40)]
    with Server("--states", str(tmp_path), "--max-batch", "1") as server:

        def post(name):
            answers.append(server.post(name, body)["turn_index"])

        threads = [threading.Thread(target=post, args=(name,)) for name in calls]
        for thread in threads:
            thread.start()
        metrics = f"http://127.0.0.1:{server.port}/metrics"
        while True:
            with urllib.request.urlopen(metrics, timeout=30) as answer:
                text = answer.read().decode()
            if f"titans_mal_queue_turns_count {len(calls)}.0" in text:
                break
        waiting = float(text.split("\ntitans_mal_waiting ")[1].split("\n")[0])
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
    assert waiting > 0
    assert answers == [0] * len(calls)
    # uvicorn ends by the signal again, once it has stopped in order.
    assert server.process.returncode in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in server.output
    with Server("--states", str(tmp_path)) as server:
        assert [server.post(name, body)["turn_index"] for name in calls[::13]] == [1] * 4


@pytest.mark.slow
def test_states_outlive_the_server(tmp_path):
    recordings = [
        (QUICKSTART / "conversation" / name).read_bytes()
        for name in sorted(os.listdir(QUICKSTART / "conversation"))
        if name.endswith(".wav")
    ][:3]
    with Server("--states", str(tmp_path / "states")) as server:
        whole = [server.post("whole", audio) for audio in recordings]
        parts = [server.post("parts", audio) for audio in recordings[:2]]
    assert "Application shutdown complete" in server.output
    with Server("--states", str(tmp_path / "states")) as server:
        parts.append(server.post("parts", recordings[2]))
    for one, other in zip(whole, parts):
        assert one["turn_index"] == other["turn_index"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
