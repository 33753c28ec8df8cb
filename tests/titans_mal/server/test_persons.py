"""Persons over HTTP and WebSocket: given with turns, deleted by name, and named nowhere."""

import json
import logging

import numpy as np
import pytest
from audio_files import RATE, to_wav
from tiny_models import tiny_model, tone

from titans_mal import ConversationPool
from titans_mal.server.redis_states import RedisStates


TURN = to_wav(tone(0.5))
REMEMBERING = {"remember_speakers": "key"}


@pytest.fixture(scope="module")
def model():
    return tiny_model({"scope": "speaker", "max_speakers": 2})


def post(client, name, content=TURN, **params):
    return client.post(f"/conversations/{name}/turns", content=content, params=params)


def test_a_deleted_person_is_gone_from_redis(serve, url, model, processor):
    states = [RedisStates(url, prefix="remembered") for _ in range(2)]
    servers = [serve(states=one, **REMEMBERING) for one in states]
    for server, name in zip(servers, ("monday", "tuesday")):
        assert post(server, name, speaker="Erika", person="customer 7").status_code == 200
    with ConversationPool(model, processor) as alone:
        whole = [alone.push("a", tone(0.5), RATE, speaker="Erika") for _ in range(3)]
    third = post(servers[0], "wednesday", speaker="caller", person="customer 7").json()
    assert third["scores"] == pytest.approx(whole[2].scores, abs=1e-5)
    redis = states[0]._redis
    stored = [redis.get(key) for key in redis.keys("remembered:persons:*") if redis.type(key) == b"string"]
    assert len(stored) == 1
    assert not any(word in stored[0] for word in (b"customer", b"Erika", b"caller", b"monday"))
    # Persons are no conversations, and one is deleted without the other.
    names = [one["name"] for one in servers[1].get("/conversations").json()["conversations"]]
    assert names == ["monday", "tuesday", "wednesday"]
    assert servers[1].delete("/persons/customer%207").status_code == 204
    assert redis.keys("remembered:persons:*") == []
    assert len(servers[0].get("/conversations/monday").json()) == 1
    fresh = post(servers[0], "thursday", speaker="Erika", person="customer 7").json()
    assert fresh["scores"] == pytest.approx(whole[0].scores, abs=1e-5)


def test_persons_of_channels_and_of_a_stream(serve):
    client = serve(**REMEMBERING)
    silence = np.zeros(RATE, np.float32)
    both = np.stack([np.concatenate([tone(1.0), silence]), np.concatenate([silence, tone(1.0)])])
    answer = post(client, "file", to_wav(both), channels=2, speakers="customer,agent", persons="customer 7,")
    assert (answer.status_code, answer.json()["errors"]) == (200, [])
    with client.websocket_connect("/conversations/stream/stream?speaker=a&person=customer%207") as stream:
        stream.send_json({"person": "customer 8"})
        assert "in the same message as speaker" in stream.receive_json()["error"]
        stream.send_json({"speaker": "b", "person": " "})
        assert "needs an ID that identifies them" in stream.receive_json()["error"]
        stream.send_json({"speaker": "b", "person": "customer 8"})
        stream.send_json({"end": True})


@pytest.mark.parametrize(
    ("params", "detail"),
    [
        ({"speaker": "a", "person": "unknown"}, "needs an ID that identifies them"),
        ({"person": "x" * 201}, "person"),
        ({"persons": "a,b"}, "persons needs several channels"),
        ({"channels": 2, "speakers": "a,b", "person": "x"}, "person is allowed only for one channel"),
        ({"channels": 2, "speakers": "a,b", "persons": "x"}, "one entry for each"),
    ],
)
def test_wrong_persons_are_422(serve, params, detail):
    answer = post(serve(**REMEMBERING), "a", **params)
    assert (answer.status_code, detail in answer.json()["detail"]) == (422, True)


def test_a_server_remembers_nobody_unless_it_is_meant_to(serve):
    client = serve()
    for answer in (post(client, "a", speaker="Erika", person="customer 7"), client.delete("/persons/customer%207")):
        assert answer.status_code == 422
        assert "does not remember speakers" in answer.json()["detail"]


def test_logs_and_metrics_name_no_person(serve, caplog):
    client = serve(**REMEMBERING)
    with caplog.at_level(logging.INFO, logger="titans_mal.server"):
        post(client, "a", speaker="Erika", person="customer")
        client.delete("/persons/customer")
    lines = [json.dumps(vars(record), default=str) for record in caplog.records if record.name == "titans_mal.server"]
    assert len(lines) == 2
    assert not any("customer" in line for line in [*lines, client.get("/metrics").text])
