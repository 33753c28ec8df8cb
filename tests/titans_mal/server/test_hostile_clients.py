"""Clients that want too much, say what is not so, or come again: what one of them does reaches no other."""

import asyncio
import logging
import multiprocessing
import threading

import numpy as np
import pytest
from audio_files import RATE, to_wav
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tiny_models import tone

from titans_mal import ConversationPool
from titans_mal.live.pool import PoolError
from titans_mal.server import ServerSettings, create_app
from titans_mal.server.logs import log_config


GOOD = to_wav(tone(0.5))


def test_a_limit_holds_for_turns_that_begin_together(serve):
    """A place is taken when a turn comes, and not when it was answered."""
    client = serve(ServerSettings(max_conversations=3), max_batch=64, max_wait_ms=500)
    statuses = []

    def begin(name):
        statuses.append(client.post(f"/conversations/{name}/turns", content=GOOD).status_code)

    threads = [threading.Thread(target=begin, args=(f"call-{i}",)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 3 + [503] * 9


def test_a_failed_turn_does_not_count(serve):
    client = serve(ServerSettings(max_conversations=1))
    for name in "ab":
        assert client.post(f"/conversations/{name}/turns", content=b"no audio").status_code == 422
    assert client.post("/conversations/c/turns", content=GOOD).status_code == 200
    assert client.post("/conversations/c/turns", content=GOOD).status_code == 200
    assert client.post("/conversations/a/turns", content=GOOD).status_code == 503


def test_stored_conversations_count_after_a_restart(serve, model, processor, tmp_path):
    settings = ServerSettings(max_conversations=1)
    with TestClient(create_app(ConversationPool(model, processor, states=tmp_path), settings)) as client:
        assert client.post("/conversations/a/turns", content=GOOD).status_code == 200
    client = serve(settings, states=tmp_path)
    assert client.post("/conversations/b/turns", content=GOOD).status_code == 503
    assert client.post("/conversations/a/turns", content=GOOD).status_code == 200
    client.delete("/conversations/a")
    assert client.post("/conversations/b/turns", content=GOOD).status_code == 200


def test_the_channels_of_streams_count(serve):
    """Each has a detector of its own, which needs memory and time."""
    client, stereo = serve(ServerSettings(max_conversations=3)), "stream?channels=2&speakers=A,B"
    with client.websocket_connect(f"/conversations/a/{stereo}"):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(f"/conversations/b/{stereo}"):
            pass
        assert refused.value.code == 1013
        with client.websocket_connect("/conversations/b/stream"):
            pass


def test_silent_streams_do_not_count_as_conversations(serve):
    client = serve(ServerSettings(max_conversations=2, idle_seconds=0.2))
    with (
        client.websocket_connect("/conversations/a/stream") as one,
        client.websocket_connect("/conversations/b/stream"),
    ):
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/conversations/c/stream"):
            pass
        assert refused.value.code == 1013
        assert client.post("/conversations/d/turns", content=GOOD).status_code == 200
        assert client.post("/conversations/e/turns", content=GOOD).status_code == 200
        with pytest.raises(WebSocketDisconnect) as closed:
            one.receive_json()
        assert closed.value.code == 1008
        assert closed.value.reason == "The client sent nothing for 0.2 s."


@pytest.mark.parametrize(
    "message",
    [
        "[" * 100_000,
        '{"speaker":' * 100_000,
        "[" * 100_000 + "]" * 100_000,
        "1" * 10_000,
        '{"speaker": "' + "A" * 1_000_000 + '"}',
        '{"speaker": "\\ud800"}',
        '{"speaker": 5}',
        '{"sampling_rate": 1e400}',
        '{"sampling_rate": NaN}',
        '{"sampling_rate": 9223372036854775808}',
        "",
    ],
)
def test_an_invalid_message_is_answered(serve, message):
    client = serve()
    with client.websocket_connect("/conversations/a/stream") as stream:
        stream.send_text(message)
        assert len(stream.receive_json()["error"]) < 1000
        stream.send_json({"speaker": "B"})
        stream.send_json({"end": True})


def test_a_message_holds_no_more_audio_than_a_turn(serve):
    """However few bytes that are: detection resamples them to 16 kHz."""
    client = serve(ServerSettings(max_seconds=5.0))
    with client.websocket_connect("/conversations/a/stream?sampling_rate=1000") as stream:
        stream.send_bytes(bytes(2 * 5001))
        assert stream.receive_json()["error"] == "A message may hold up to 5 s of audio, got 5.0 s."
        stream.send_bytes(bytes(2 * 5000))
        stream.send_json({"end": True})
        with pytest.raises(WebSocketDisconnect) as closed:
            stream.receive_json()
        assert closed.value.code == 1000


def test_a_stream_whose_states_cannot_be_read_is_closed(serve, monkeypatch):
    """As where Redis is down when it opens."""

    def down(self, name):
        raise OSError("Redis does not answer: down")

    client = serve()
    monkeypatch.setattr(ConversationPool, "history", down)
    with (
        client.websocket_connect("/conversations/a/stream") as stream,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        stream.receive_json()
    assert (closed.value.code, closed.value.reason) == (1013, "Redis does not answer: down")
    assert client.get("/conversations/a").status_code == 503


@pytest.mark.parametrize(
    "address", ["/conversations/a%ff", "/conversations/a?speaker=%fe", "/conversations/%ed%a0%80"]
)
def test_names_outside_utf8_are_rejected_and_not_merged(serve, address):
    client = serve()
    name, _, query = address.partition("?")
    answer = client.post(f"{name}/turns?{query}", content=GOOD)
    assert (answer.status_code, answer.json()["detail"]) == (422, "A name or parameter in the URL is not UTF-8.")
    if not query:
        assert client.get(address).status_code == 422
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(f"{address}/stream"):
            pass
        assert refused.value.code == 1008


@pytest.mark.parametrize(
    "part", [{"query_string": b"speaker=\xc3%a9"}, {"query_string": "speaker=ü".encode()}, {"raw_path": b"/a\xff"}]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_urls_are_ascii(serve, part, kind):
    """Some HTTP parsers pass other bytes on, which frameworks decode in different ways."""
    scope = {"type": kind, "method": "POST", "path": "/conversations/a/turns", "headers": [], "query_string": b""}
    sent = []

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(serve().app(scope | {"raw_path": b"/conversations/a/turns"} | part, receive, send))
    assert sent[0].get("status", sent[0].get("code")) == (422 if kind == "http" else 1008)


@pytest.mark.parametrize("what", ["name", "speaker", "key"])
def test_long_names_are_rejected_with_a_short_message(serve, what):
    client, long = serve(), "x" * 1000
    answer = client.post(
        f"/conversations/{long if what == 'name' else 'a'}/turns",
        content=GOOD,
        params={"speaker": long} if what == "speaker" else {},
        headers={"Idempotency-Key": long} if what == "key" else {},
    )
    assert answer.status_code == 422
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"/conversations/{long}/stream?speaker={long}"),
    ):
        pass


def test_a_turn_that_is_sent_again_is_written_once(serve):
    client = serve()

    def post(key, **params):
        headers = {} if key is None else {"Idempotency-Key": key}
        return client.post("/conversations/a/turns", content=GOOD, params=params, headers=headers).json()

    first, second = post("k1", reset=True), post("k2")
    assert (first["turn_index"], second["turn_index"]) == (0, 1)
    assert post("k1", reset=True) == first
    assert post("k2") == second
    assert len(client.get("/conversations/a").json()) == 2
    assert post(None)["turn_index"] == 2
    assert post("k1") == first
    # Not every key is one: a turn must not be lost since another one had it.
    headers = {"Idempotency-Key": "k1"}
    other = client.post("/conversations/a/turns", content=to_wav(tone(0.7)), headers=headers)
    assert (other.status_code, "belongs to a turn of" in other.json()["detail"]) == (422, True)
    assert client.post("/conversations/a/turns", content=GOOD, headers={"Idempotency-Key": ""}).status_code == 422
    assert len(client.get("/conversations/a").json()) == 3


def test_operations_may_be_protected(serve):
    open_to_all = serve(ServerSettings(token="secret"))
    client = serve(ServerSettings(token="secret", protect_operations=True))
    for path in ("/metrics", "/docs", "/openapi.json"):
        assert open_to_all.get(path).status_code == 200
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.get("/health").status_code == 200
    with pytest.raises(ValueError, match="protect_operations needs a token"):
        ServerSettings(protect_operations=True)


def test_logs_and_metrics_hold_no_names(serve, caplog):
    client = serve()
    with caplog.at_level(logging.INFO, logger="titans_mal.server"):
        client.post("/conversations/Erika%20M/turns", content=GOOD, params={"speaker": "Hans"})
        client.get("/conversations/Erika%20M")
    lines = [record.getMessage() for record in caplog.records if record.name == "titans_mal.server"]
    assert len(lines) == 2
    assert not any(name in line for line in lines for name in ("Erika", "Hans", "speaker"))
    posted, got = (line.split("/conversations/")[1][:12] for line in lines)
    assert posted == got  # one name is one hash
    assert "Erika" not in client.get("/metrics").text
    assert log_config()["loggers"]["uvicorn.access"]["handlers"] == []


@pytest.mark.parametrize(
    "path",
    ["/conversations//Erika", "/Conversations/Erika", "/calls/Erika/turns", "/persons/Erika/turns", "/Erika%0aM"],
)
def test_no_address_brings_a_name_or_a_line_into_the_log(serve, caplog, path):
    client = serve()
    with caplog.at_level(logging.INFO, logger="titans_mal.server"):
        assert client.get(path).status_code == 404
        client.get("/conversations/turns/summary")
    lines = [record.getMessage() for record in caplog.records if record.name == "titans_mal.server"]
    assert "Erika" not in lines[0]
    assert "\n" not in lines[0]
    assert "/summary" in lines[1]
    assert "turns" not in lines[1]  # which is a name there
    # With names, a line is still a line.
    with caplog.at_level(logging.INFO, logger="titans_mal.server"):
        serve(app={"log_name": str}).get("/x%0aGET%20/health")
    assert "/x\\nGET /health" in caplog.records[-1].getMessage()


def test_repeated_parameters_are_422(serve):
    client = serve()
    answer = client.post("/conversations/a/turns?labels=sad&labels=angry&speaker=A", content=GOOD)
    assert (answer.status_code, answer.json()["detail"]) == (422, "The parameters labels are given more than once.")
    assert client.get("/conversations?limit=1&limit=2").status_code == 422
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/conversations/a/stream?speaker=A&speaker=B"):
        pass


def test_a_long_key_works_for_channels(serve):
    client, silence = serve(), np.zeros(RATE, np.float32)
    both = to_wav(np.stack([np.concatenate([tone(1.0), silence]), np.concatenate([silence, tone(1.0)])]))
    query, headers = {"channels": 2, "speakers": "a,b"}, {"Idempotency-Key": "k" * 200}
    first, again = (
        client.post("/conversations/a/turns", content=both, params=query, headers=headers).json() for _ in range(2)
    )
    assert first == again
    assert first["errors"] == []
    assert len(first["turns"]) > 0


def test_waiting_turns_are_bounded_by_bytes(model, processor):
    audio = np.tile(tone(1.0), 2)
    with ConversationPool(
        model, processor, max_batch=100, max_wait_ms=60_000, max_waiting_megabytes=3 * audio.nbytes / 1e6
    ) as pool:
        waiting = [pool.submit(f"call {i}", audio, RATE) for i in range(3)]
        with pytest.raises(PoolError, match="MB are waiting"):
            pool.submit("call 3", audio, RATE)
        for future in waiting:
            assert future.cancel()


def test_bodies_are_bounded_together(serve, monkeypatch):
    """Those of other requests that are still received or scored."""
    begun, held, submit, statuses = threading.Event(), threading.Event(), ConversationPool.submit, []

    def submit_later(self, name, *audio, **turn):
        begun.set()
        assert held.wait(30)
        return submit(self, name, *audio, **turn)

    def post(name):
        statuses.append(client.post(f"/conversations/{name}/turns", content=GOOD).status_code)

    client = serve(ServerSettings(max_upload_megabytes=0.001))  # a single one is accepted
    monkeypatch.setattr(ConversationPool, "submit", submit_later)
    first = threading.Thread(target=post, args=("a",))
    first.start()
    assert begun.wait(30)
    answer = client.post("/conversations/b/turns", content=GOOD)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "MB of audio: try again later" in answer.json()["detail"]
    held.set()
    first.join()
    post("b")
    assert statuses == [200, 200]
    assert 'titans_mal_refused_turns_total{reason="uploads"} 1.0' in client.get("/metrics").text


def test_a_pool_without_its_worker_takes_no_turn(model, processor):
    with ConversationPool(model, processor) as pool:
        context = multiprocessing.get_context("fork")
        answers = context.Queue()

        def in_a_fork():
            try:
                pool.submit("a", tone(0.5), RATE)
            except PoolError as error:
                answers.put(str(error))

        process = context.Process(target=in_a_fork)
        process.start()
        assert answers.get(timeout=30) == "The pool is closed."
        process.join()


@pytest.mark.parametrize("name", ["x" * 201, "\ud800", 5])
def test_names_over_the_pool(model, processor, name):
    with ConversationPool(model, processor) as pool:
        with pytest.raises(ValueError if isinstance(name, str) else TypeError, match="name"):
            pool.submit(name, tone(0.5), RATE)
        with pytest.raises(ValueError, match="A speaker"):
            pool.submit("a", tone(0.5), RATE, speaker=name)
