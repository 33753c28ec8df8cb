"""What a request may ask for, how it may be sent, and what every answer has."""

import json
import logging

import numpy as np
import pytest
from audio_files import RATE, to_wav
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from tiny_models import tone

from titans_mal import ConversationAnalyzer, ConversationPool
from titans_mal.live import LabelSettings
from titans_mal.server import ServerSettings
from titans_mal.server.logs import JsonFormatter, log_config


GOOD = to_wav(tone(0.5))


@pytest.fixture(scope="module")
def plain(model, processor):
    """The same turn by itself, with everybody's labels at the model's temperature."""
    return ConversationAnalyzer(model, processor).push(tone(0.5), RATE, speaker="caller")


def post(client, name="a", content=GOOD, **params):
    return client.post(f"/conversations/{name}/turns", content=content, params=params)


def test_labels_threshold_and_temperature_are_of_a_request(serve, plain):
    client = serve()
    answer = post(client, "labels", labels="sad, neutral").json()
    total = plain.scores["sad"] + plain.scores["neutral"]
    assert answer["scores"] == pytest.approx(
        {name: plain.scores[name] / total for name in ("sad", "neutral")}, abs=1e-5
    )
    assert post(client, "unknown", unknown_below=1.0).json()["label"] == "unknown"
    cold = post(client, "cold", temperature=1e-300).json()
    assert (cold["label"], cold["score"], sorted(cold["scores"].values())) == (plain.label, 1.0, [0.0, 0.0, 0.0, 1.0])
    hot = post(client, "hot", temperature=3.0).json()["scores"]
    logits = np.log([*plain.scores.values()]) / 3
    assert [*hot.values()] == pytest.approx((np.exp(logits) / np.exp(logits).sum()).tolist(), abs=1e-5)
    # The server's own settings are as they were.
    assert post(client, "plain").json()["scores"] == pytest.approx(plain.scores, abs=1e-5)


def test_who_is_not_scored_is_written_and_gets_no_label(serve, model, processor):
    client, analyzer = serve(), ConversationAnalyzer(model, processor)
    expected = [analyzer.push(tone(0.5), RATE, speaker=name) for name in ("agent", "caller")]
    agent = post(client, speaker="agent", score="caller").json()
    caller = post(client, speaker="caller", score="caller").json()
    assert (agent["label"], agent["score"], agent["scores"]) == (None, None, {})
    assert caller["scores"] == pytest.approx(expected[1].scores, abs=1e-5)
    assert [turn["label"] for turn in client.get("/conversations/a").json()] == [None, expected[1].label]


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"labels": "sad,bored"}, "labels must be"),
        ({"labels": "sad,sad"}, "labels must be"),
        ({"unknown_below": 1.5}, "unknown_below"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"channels": 2}, "speakers must name a different speaker"),
        ({"channels": 2, "speakers": "a,a"}, "different speaker for each of 2 channels"),
        ({"channels": 2, "speakers": "a,b", "speaker": "a"}, "speaker is allowed only for one channel"),
        ({"channels": 99, "speakers": "a,b"}, "channels"),
        ({"speakers": "a,b"}, "give channels=2"),
        ({"speeker": "A", "label": "sad"}, "Unknown parameters label, speeker; allowed are labels, "),
    ],
)
def test_wrong_settings_are_422(serve, params, detail):
    client = serve()
    answer = post(client, **params)
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]
    if "labels" in params:
        return  # which a stream is closed for, below
    with pytest.raises(WebSocketDenialResponse) as denied:
        client.websocket_connect("/conversations/a/stream", params=params).__enter__()
    assert (denied.value.status_code, detail in denied.value.json()["detail"]) == (422, True)


@pytest.mark.parametrize("address", ["/conversations/a", "/health", "/metrics"])
def test_unknown_parameters_are_422_everywhere(serve, address):
    client = serve()
    post(client)
    assert client.get(address).status_code == 200
    answer = client.get(address, params={"verbose": 1})
    assert answer.status_code == 422
    assert "Unknown parameters verbose; allowed are none" in answer.json()["detail"]


def test_labels_of_a_stream_are_checked_when_it_opens(serve):
    client = serve()
    with (
        pytest.raises(WebSocketDisconnect) as closed,
        client.websocket_connect("/conversations/a/stream?labels=bored") as stream,
    ):
        stream.receive_json()
    assert closed.value.code == 1008
    assert "labels must be" in closed.value.reason


def test_an_answer_is_complete(serve, processor, model):
    client = serve()
    window, shortest = model.max_turn_seconds(processor), model.min_turn_seconds(processor)
    seconds = window + 0.5
    long = post(client, content=to_wav(tone(seconds)), debug=True).json()
    assert (long["conversation"], long["turn_index"]) == ("a", 0)
    assert long["processed_seconds"] == pytest.approx(window)
    assert long["cut_seconds"] == pytest.approx(0.5, abs=0.01)
    assert long["padded_seconds"] == 0
    assert long["surprise"] >= 0
    assert len(long["scores"]) == 4
    assert {*long["stages"]} == {"decode", "wait", "forward", "store"}
    short = post(client, content=to_wav(tone(0.03))).json()
    assert short["padded_seconds"] == pytest.approx(shortest - 0.03, abs=0.001)
    assert (short["cut_seconds"], short["stages"]) == (0, None)


def test_a_form_with_a_file(serve, plain):
    client = serve(ServerSettings(max_megabytes=1.0))

    def form(**files):
        return client.post("/conversations/a/turns", params={"speaker": "caller"}, files=files)

    answer = form(audio=("x.wav", GOOD, "audio/wav"))
    assert answer.json()["scores"] == pytest.approx(plain.scores, abs=1e-5)
    for status, detail, answer in (
        (422, "A form must hold one file, audio", form(recording=("x.wav", GOOD))),
        (422, "Too many files", form(audio=("x.wav", GOOD), other=("y.wav", GOOD))),
        (
            422,
            "A form must hold one file, audio",
            client.post("/conversations/a/turns", data={"audio": "x"}, files={"y": GOOD}),
        ),
        (422, "The body is empty", form(audio=("x.wav", b""))),
        (413, "up to 1 MB", form(audio=("x.wav", b"0" * 1_100_000))),
        (
            422,
            "The form cannot be read",
            client.post("/conversations/a/turns", content=b"--x\r\n", headers={"Content-Type": "multipart/form-data"}),
        ),
    ):
        assert (answer.status_code, detail in answer.json()["detail"]) == (status, True)
    assert len(client.get("/conversations/a").json()) == 1


def test_every_answer_has_the_id_of_its_request(serve, caplog):
    client = serve()
    with caplog.at_level(logging.INFO, logger="titans_mal.server"):
        kept = client.get("/conversations/a", headers={"X-Request-ID": "trace-7"})
        made = client.get("/health", headers={"X-Request-ID": "two words"})
        with client.websocket_connect("/conversations/a/stream", headers={"X-Request-ID": "ws-1"}) as stream:
            assert (b"x-request-id", b"ws-1") in stream.extra_headers
            stream.send_json({"end": True})
            with pytest.raises(WebSocketDisconnect):
                stream.receive_json()
    assert kept.headers["X-Request-ID"] == kept.json()["request_id"] == "trace-7"
    assert len(made.headers["X-Request-ID"]) == 32
    ids = [record.request_id for record in caplog.records if record.name == "titans_mal.server"]
    assert ids == ["trace-7", made.headers["X-Request-ID"], "ws-1"]


def test_logs_as_json(serve, caplog):
    client = serve()
    with caplog.at_level(logging.INFO, logger="titans_mal.server"):
        client.get("/conversations/Erika", headers={"X-Request-ID": "trace-7"})
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (line["level"], line["logger"], line["status"], line["method"]) == ("INFO", "titans_mal.server", 404, "GET")
    assert (line["request_id"], line["path"][:15]) == ("trace-7", "/conversations/")
    assert "Erika" not in json.dumps(line)
    assert log_config(as_json=True)["formatters"]["default"] == {"()": JsonFormatter}


def test_refused_turns_are_counted_by_reason(serve):
    client = serve(ServerSettings(max_seconds=1.0, max_conversations=1, token="secret"))
    client.post("/conversations/a/turns", content=GOOD)
    client.headers["Authorization"] = "Bearer secret"
    for name, content, params in (
        ("a", GOOD, {}),
        ("a", b"", {}),
        ("a", b"no audio", {}),
        ("a", to_wav(tone(1.5)), {}),
        ("a", GOOD, {"speeker": "A"}),
        ("b", GOOD, {}),
    ):
        post(client, name, content, **params)
    lines = client.get("/metrics").text.splitlines()
    counted = {line for line in lines if line.startswith("titans_mal_refused_turns_total{")}
    reasons = ("token", "empty", "unusable", "too_long", "parameters", "conversations")
    assert counted == {f'titans_mal_refused_turns_total{{reason="{reason}"}} 1.0' for reason in reasons}


def test_the_queue_waits_for_others_only_while_they_come(model, processor):
    with ConversationPool(model, processor, max_wait_ms=60) as pool:
        queue = pool._queue
        assert queue.wait == 0.06
        for seconds in (0.0, 0.01, 0.02):
            queue._note_arrival(seconds)
        assert queue.wait == 0.06
        for seconds in range(1, 20):
            queue._note_arrival(float(seconds))
        assert queue.wait == 0.0
        for place in range(20):
            queue._note_arrival(19 + place / 100)
        assert queue.wait == 0.06


def test_wrong_label_settings():
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        LabelSettings(temperature=-1.0)
    with pytest.raises(ValueError, match="A speaker"):
        LabelSettings(score=["x" * 201])
