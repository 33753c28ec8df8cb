"""What an operator sees of conversations, and that what is forgotten is gone."""

import json
import time

import jsonschema
import pytest
from audio_files import to_wav
from fastapi.testclient import TestClient
from tiny_models import tiny_model, tone

from titans_mal import ConversationPool
from titans_mal.server import ServerSettings, create_app


GOOD = to_wav(tone(0.5))


def say(client, name, count=1, speaker="Erika"):
    for _ in range(count):
        answer = client.post(f"/conversations/{name}/turns", content=GOOD, params={"speaker": speaker})
        assert answer.status_code == 200


@pytest.mark.parametrize("max_live", [1, 100])
def test_names_page_by_page(serve, tmp_path, max_live):
    client = serve(ServerSettings(token="secret"), max_live=max_live, states=tmp_path)
    assert client.get("/conversations").status_code == 401
    client.headers["Authorization"] = "Bearer secret"
    assert client.get("/conversations").json() == {"conversations": [], "next": None}
    for name in ("b", "ä", "a", "call 3"):
        say(client, name)
    pages, after = [], {}
    while True:
        page = client.get("/conversations", params={"limit": 2, **after}).json()
        pages.append([one["name"] for one in page["conversations"]])
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert pages == [["a", "b"], ["call 3", "ä"]]
    client.delete("/conversations/a")
    assert client.get("/conversations", params={"limit": 1}).json()["conversations"] == [{"name": "b"}]
    assert client.get("/conversations", params={"limit": 0}).status_code == 422


def test_a_summary_over_http(serve):
    client = serve()
    say(client, "a", 2)
    say(client, "a", 1, speaker="Hans")
    summary = client.get("/conversations/a/summary", params={"time_constant": 10}).json()
    assert (summary["conversation"], summary["turns"], summary["time_constant"]) == ("a", 3, 10)
    assert [(one["speaker"], one["turns"]) for one in summary["speakers"]] == [("Erika", 2), ("Hans", 1)]
    assert sum(summary["speakers"][0]["shares"].values()) == pytest.approx(1)
    assert client.get("/conversations/b/summary").status_code == 404
    assert client.get("/conversations/a/summary", params={"time_constant": 0}).status_code == 422


def test_a_summary_has_the_line_of_each_dimension(processor):
    model = tiny_model(emotion_dimensions=["valence"])
    with TestClient(create_app(ConversationPool(model, processor))) as client:
        say(client, "a", 2)
        (line,) = client.get("/conversations/a/summary").json()["speakers"][0]["dimensions"].values()
    assert [point[0] for point in line] == [0.5, 1.0]


def test_every_answer_has_a_schema(serve):
    client = serve()
    say(client, "a", 2)
    document, protocol = client.get("/openapi.json").json(), client.get("/asyncapi.json").json()
    paths = {path: methods for path, methods in document["paths"].items() if path != "/metrics"}
    for path, methods in paths.items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                schema = answer.get("content", {}).get("application/json", {}).get("schema")
                assert schema or status == "204", (path, method, status)
    for address in ("/conversations", "/conversations/a", "/conversations/a/summary", "/health"):
        schema = paths[address.replace("/a", "/{name}")]["get"]["responses"]["200"]["content"]["application/json"]
        whole = {**schema["schema"], "components": document["components"]}
        jsonschema.validate(client.get(address).json(), whole, cls=jsonschema.Draft202012Validator)
    turn = protocol["channels"]["stream"]["messages"]["turn"]["payload"]
    jsonschema.validate(client.get("/conversations/a").json()[0], turn, cls=jsonschema.Draft202012Validator)
    with client.websocket_connect("/conversations/a/stream") as stream:
        stream.send_text("{}")
        error = protocol["channels"]["stream"]["messages"]["error"]["payload"]
        jsonschema.validate(stream.receive_json(), error, cls=jsonschema.Draft202012Validator)
        stream.send_json({"end": True})
    assert "/conversations/{name}/stream" in document["info"]["description"]


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("max_live", [1, 100])
def test_a_deleted_conversation_is_gone_from_the_folder(serve, tmp_path, max_live):
    client = serve(states=tmp_path, max_live=max_live)
    say(client, "Erika M")
    say(client, "other")
    assert len(files_of(tmp_path)) >= 2
    assert client.delete("/conversations/Erika%20M").status_code == 204
    client.delete("/conversations/other")
    assert files_of(tmp_path) == []
    assert client.get("/conversations").json()["conversations"] == []


def test_no_audio_is_kept(serve, tmp_path):
    """Nor does what is kept depend on how long the audio was."""
    client, long = serve(states=tmp_path, max_live=1), tone(2.0)
    for name, audio in (("short", tone(0.5)), ("long", long), ("last", tone(0.5))):
        client.post(f"/conversations/{name}/turns", files={"audio": to_wav(audio)})
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    sizes = sorted(map(len, contents))[-2:]
    assert sizes[1] - sizes[0] < 100
    samples = to_wav(long)[1000:1200]
    assert not any(part in content for content in contents for part in (samples, long[500:550].tobytes()))


def test_what_nobody_uses_is_forgotten_by_itself(serve, tmp_path):
    client = serve(ServerSettings(time_to_live=0.5), time_to_live=0.5, max_live=1, states=tmp_path)
    say(client, "a")
    say(client, "b")
    deadline = time.monotonic() + 30
    while (left := files_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)  # and no request comes
    assert left == []
    assert client.get("/metrics").text.count("Erika") == 0
    assert "titans_mal_expired_states_total 1.0" in client.get("/metrics").text


def test_states_that_were_evicted_restored_and_lost_are_counted(model, processor, tmp_path):
    with ConversationPool(model, processor, states=tmp_path, max_live=1) as pool:
        for name in ("a", "b", "a"):
            pool.push(name, tone(0.5), 16_000)
        counters = pool.counters()
    assert (counters["evicted"], counters["restored"], counters["lost"]) == (2, 1, 0)


def test_a_deleted_conversation_is_gone_from_redis(model, processor, url):
    from titans_mal.server.alert_rules import SurpriseRule
    from titans_mal.server.alerts import Alerts
    from titans_mal.server.redis_states import RedisStates

    states, sent = RedisStates(url, prefix="deleted"), []

    class Webhook:
        send, close, count = sent.append, staticmethod(lambda: None), None

    alerts = Alerts([SurpriseRule(name="any", above=-1.0)], Webhook(), states)
    pool = ConversationPool(model, processor, states=states)
    with TestClient(create_app(pool, alerts=alerts)) as client:
        say(client, "Erika M", 2)
        assert [one["conversation"] for one in sent] == ["Erika M"]
        assert client.get("/conversations").json()["conversations"] == [{"name": "Erika M"}]
        assert len(states._redis.keys("deleted:*")) == 3  # state, names, and who spoke of the rule
        assert client.delete("/conversations/Erika%20M").status_code == 204
        assert states._redis.keys("deleted:*") == []
        say(client, "Erika M")
        assert len(sent) == 2
        assert json.dumps(sent[1])
