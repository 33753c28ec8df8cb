"""Alerts: what triggers a rule, and how an alert reaches a server on loopback, and no other one."""

import hashlib
import hmac
import json
import math
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from audio_files import to_wav
from tiny_models import tiny_model, tone

from titans_mal import ConversationPool
from titans_mal.cli.serve import _alerts
from titans_mal.live import TurnEmotion
from titans_mal.server import create_app
from titans_mal.server.alert_rules import LabelRule, MoodRule, SurpriseRule, read_rules
from titans_mal.server.alerts import Alerts, LocalClaims
from titans_mal.server.webhook import AllowList, Webhook


SHIPPED = Path(__file__).resolve().parents[3] / "examples" / "serving" / "alerts.toml"
LOOPBACK = AllowList(["127.0.0.0/8"])


def turns(*rows, speaker="customer"):
    """Turns of (end, probability of angry, surprise)."""
    made = []
    for index, (end, angry, *surprise) in enumerate(rows):
        scores = {"angry": angry, "neutral": 1 - angry}
        made.append(
            TurnEmotion(
                index, speaker, end - 1.0, end, "angry", angry, scores, *(surprise or [0.5]), 0.01,
                values={"valence": 1 - 2 * angry},
            )
        )  # fmt: skip
    return made


ANGRY = LabelRule(name="angry customer", speaker="customer", label="angry")


@pytest.mark.parametrize(
    ("rule", "rows", "triggers"),
    [
        (ANGRY, [(1, 0.7), (20, 0.6), (40, 0.9)], True),
        (ANGRY, [(1, 0.7), (20, 0.6), (61, 0.9)], True),
        (ANGRY, [(1, 0.7), (20, 0.6), (61.1, 0.9)], False),  # over a longer time
        (ANGRY, [(1, 0.7), (20, 0.59), (40, 0.9)], False),  # two
        (ANGRY, [(1, 0.7), (20, 0.7), (40, 0.9), (41, 0.1)], False),  # not the last one
        (ANGRY, [(1, 0.7), (20, 0.2), (30, 0.7), (40, 0.9)], True),  # with another one between
        (SurpriseRule(name="s", above=2.0), [(1, 0.5, 2.0)], False),
        (SurpriseRule(name="s", above=2.0), [(1, 0.5, 2.1)], True),
        (MoodRule(name="m", below=-0.1, time_constant=1e-3), [(1, 0.9), (31, 0.9)], True),
        (MoodRule(name="m", below=-0.1, time_constant=1e-3), [(1, 0.9), (30, 0.9)], False),
        (MoodRule(name="m", below=-0.1, time_constant=1e-3), [(1, 0.9), (15, 0.1), (31, 0.9)], False),
        (MoodRule(name="m", below=-0.1, time_constant=1e9), [(1, 0.1), (31, 0.9), (99, 0.9)], False),  # it is slow
        (MoodRule(name="m", below=-0.5, weights={"angry": -1}, time_constant=1e-3), [(1, 0.9), (31, 0.9)], True),
    ],
)
def test_what_triggers_a_rule(rule, rows, triggers):
    assert rule.is_triggered_by(turns(*rows)) is triggers


def test_rules_are_of_a_speaker():
    rows = [(1, 0.9), (2, 0.9), (3, 0.9)]
    assert ANGRY.is_triggered_by(turns(*rows))
    assert not ANGRY.is_triggered_by(turns(*rows, speaker="agent"))
    # What others say between does not count.
    mixed = [turn for pair in zip(turns(*rows), turns(*rows, speaker="agent")) for turn in pair]
    assert not ANGRY.is_triggered_by(mixed)
    assert ANGRY.is_triggered_by(mixed[:-1])


def test_a_file_of_rules(tmp_path):
    file = tmp_path / "alerts.toml"
    file.write_text(
        '[[label]]\nname = "angry customer"\nspeaker = "customer"\nlabel = "angry"\n'
        '[[surprise]]\nname = "odd"\nabove = 2\ncool_down = 60\n'
        '[[mood]]\nname = "low"\nbelow = -0.2\nseconds = 30\nweights = {angry = -1, happy = 1}\n'
    )
    rules = read_rules(file)
    assert rules[0] == ANGRY
    assert rules[1] == SurpriseRule(name="odd", above=2, cool_down=60)
    assert rules[2] == MoodRule(name="low", below=-0.2, weights={"angry": -1, "happy": 1})
    assert read_rules(SHIPPED)[0] == ANGRY
    for text, expected in (
        ("", r"may hold the tables \[\[label\]\]"),
        ("x = 1", r"got \[\[x\]\]"),
        ("[label]\nname = 'a'", "may hold the tables"),
        ("[[label]\n", "is not TOML"),
        (f"a = {'[' * 100_000}", "is not TOML"),
        ("[[label]]\nname = 'a'", "rule 'a': .*missing"),
        ("[[label]]\nname = 'a'\nlable = 'angry'", "a rule has the fields"),
        ("[[label]]\nname = 'a'\nlabel = 'angry'\nat_least = 60", "at_least must be a probability"),
        ("[[label]]\nname = 'a'\nlabel = 'angry'\nwithin = 'long'", "within must be a finite number above 0"),
        ("[[surprise]]\nname = 'a'\nabove = nan", "above must be a finite number"),
        (
            "[[mood]]\nname = 'a'\nbelow = 0\nweights = {angry = 'x'}",
            "rule 'a': The weight of 'angry' must be a finite",
        ),
        ("[[surprise]]\nname = ''\nabove = 1", "A rule must have a name"),
        ("[[surprise]]\nname = 'a'\nabove = 1\n[[surprise]]\nname = 'a'\nabove = 2", "names of rules must differ"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=expected):
            read_rules(file)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (LabelRule, {"label": 7}, "label must be a label of the model, got 7"),
        (LabelRule, {"label": None}, "label must be a label of the model, got None"),
        (LabelRule, {"label": "angry", "turns": 2.5}, "turns must be an integer of at least 1, got 2.5"),
        (LabelRule, {"label": "angry", "turns": True}, "turns must be an integer of at least 1, got True"),
        (LabelRule, {"label": "angry", "turns": 0}, "turns must be an integer of at least 1, got 0"),
        (LabelRule, {"label": "angry", "within": 10**400}, "within must be a finite number above 0"),
        (LabelRule, {"label": "angry", "at_least": "high"}, "at_least must be a probability, from 0 to 1, got 'high'"),
        (LabelRule, {"label": "angry", "at_least": True}, "at_least must be a probability"),
        (LabelRule, {"label": "angry", "at_least": float("nan")}, "at_least must be a probability"),
        (LabelRule, {"label": "angry", "speaker": 3}, "A speaker: the name must be a string"),
        (LabelRule, {"label": "angry", "name": 3}, "A rule must have a name, got 3"),
        (LabelRule, {"label": "angry", "cool_down": "long"}, "cool_down must be a finite number above 0"),
        (SurpriseRule, {"above": "3"}, "above must be a finite number, got '3'"),
        (MoodRule, {"below": None}, "below must be a finite number, got None"),
        (MoodRule, {"below": 0, "weights": {"angry": "x"}}, "The weight of 'angry' must be a finite number, got 'x'"),
        (MoodRule, {"below": 0, "weights": {"angry": True}}, "The weight of 'angry' must be a finite number"),
        (MoodRule, {"below": 0, "weights": {"angry": math.inf}}, "The weight of 'angry' must be a finite number"),
        (MoodRule, {"below": 0, "weights": {1: 1.0}}, "weights must be numbers by label"),
        (MoodRule, {"below": 0, "weights": ["angry"]}, "weights must be numbers by label"),
    ],
)
def test_fields_of_rules_are_checked_when_a_rule_is_made(kind, fields, expected):
    with pytest.raises(ValueError, match=expected):
        kind(**{"name": "a"} | fields)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            LabelRule(name="r", label="angy"),
            "The alert rule 'r' needs the label 'angy', but the model has 'neutral', ",
        ),
        (MoodRule(name="r", below=0, weights={"angry": -1, "hapy": 1}), "needs the label 'hapy', but the model has"),
        (MoodRule(name="r", below=0), "The alert rule 'r' needs the dimension 'valence', but the model has none"),
    ],
)
def test_a_server_rejects_rules_that_its_model_cannot_trigger(model, processor, receiver, rule, expected):
    usable = [SurpriseRule(name="any", above=1), MoodRule(name="mood", below=0, weights={"angry": -1})]
    alerts = Alerts([*usable, ANGRY], Webhook(receiver.url, "secret", LOOPBACK))
    wrong = Alerts([*usable, rule], Webhook(receiver.url, "secret", LOOPBACK))
    with ConversationPool(model, processor) as pool:
        create_app(pool, alerts=alerts)
        with pytest.raises(ValueError, match=expected):
            create_app(pool, alerts=wrong)
    alerts.close()
    wrong.close()


def test_rules_of_a_model_of_dimensions(processor):
    model = tiny_model(emotion_readout=None, emotion_dimensions=["valence"])
    with ConversationPool(model, processor) as pool:
        MoodRule(name="mood", below=0).check_model(pool.labels, pool.emotion_dimensions)
        with pytest.raises(ValueError, match="needs the label 'angry', but the model has none"):
            ANGRY.check_model(pool.labels, pool.emotion_dimensions)


@pytest.fixture
def receiver():
    """A server on loopback that answers with the statuses it was given, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.got.append((dict(self.headers), body))
            status = server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.statuses = [], [200]
    server.url = f"http://127.0.0.1:{server.server_port}/hook?team=7"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_alerts_of_a_server_are_signed_and_sent_once_in_a_while(serve, receiver):
    now = [0.0]
    webhook = Webhook(receiver.url, "secret", LOOPBACK)
    alerts = Alerts([SurpriseRule(name="any", above=-1.0)], webhook, LocalClaims(lambda: now[0]))
    client = serve(app={"alerts": alerts})
    good = to_wav(tone(0.5))
    for name in "aab":
        assert client.post(f"/conversations/{name}/turns", content=good).status_code == 200
    now[0] = 301.0
    answer = client.post("/conversations/a/turns", content=good).json()
    client.delete("/conversations/a")
    client.post("/conversations/a/turns", content=good)  # another conversation of that name
    webhook.close()
    assert 'titans_mal_alerts_total{outcome="sent"} 4.0' in client.get("/metrics").text
    sent = [json.loads(body) for _, body in receiver.got]
    assert [(one["rule"], one["conversation"]) for one in sent] == [("any", name) for name in "abaa"]
    assert len({one["id"] for one in sent}) == 4
    assert {**answer, **sent[2]["turn"]} == answer
    for headers, body in receiver.got:
        signed = f"{headers['X-Titans-Timestamp']}.".encode() + body
        assert headers["X-Titans-Signature"] == hmac.new(b"secret", signed, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("statuses", "outcomes"),
    [
        ([500, 429, 204], ["retried", "retried", "sent"]),
        ([503], ["retried", "retried", "dropped"]),
        ([400], ["dropped"]),
        ([302], ["dropped"]),  # which may lead anywhere
    ],
)
def test_what_fails_is_tried_again(receiver, statuses, outcomes):
    receiver.statuses, became, ended = list(statuses), [], threading.Event()

    def count(outcome):
        became.append(outcome)
        if outcome != "retried":
            ended.set()

    webhook = Webhook(receiver.url, "secret", LOOPBACK, tries=3, first_delay=0.01, count=count)
    webhook.send({"id": "1"})
    assert ended.wait(30)
    webhook.close()
    assert became == outcomes
    assert len(receiver.got) == len(outcomes)


def test_a_server_that_stops_tries_what_waits_once_more(receiver):
    receiver.statuses, became, failed = [500], [], threading.Event()

    def count(outcome):
        became.append(outcome)
        failed.set()

    webhook = Webhook(receiver.url, "secret", LOOPBACK, first_delay=3600, count=count)
    webhook.send({"id": "1"})
    assert failed.wait(30)
    receiver.statuses = [200]
    webhook.close()
    webhook.send({"id": "2"})
    assert became == ["retried", "sent", "dropped"]


def test_no_address_outside_of_the_list(receiver, monkeypatch):
    for allowed in (["10.0.0.0/8"], ["localhost"], ["hooks.example"]):
        with pytest.raises(ValueError, match="is not among the allowed hosts and networks"):
            Webhook(receiver.url.replace("127.0.0.1", "localhost"), "secret", AllowList(allowed))
    webhook = Webhook(receiver.url, "secret", LOOPBACK, count=lambda outcome: became.append(outcome))
    became, connected = [], []
    # The name resolves to another address later: no connection is made, to that one or to the one before.
    monkeypatch.setattr("titans_mal.server.webhook.socket.create_connection", lambda *given: connected.append(given))
    monkeypatch.setattr(
        "titans_mal.server.webhook.socket.getaddrinfo", lambda *args, **kwargs: [(2, 1, 6, "", ("10.9.9.9", 80))]
    )
    webhook.send({"id": "1"})
    webhook.close()
    assert (became, receiver.got, connected) == (["dropped"], [], [])


@pytest.mark.parametrize(
    ("address", "is_allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::1", False),
        # A private address within a public one: mapped, compatible, NAT64, 6to4, Teredo.
        ("::ffff:10.0.0.1", False),
        ("::10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_a_name_is_allowed_at_public_addresses(monkeypatch, address, is_allowed):
    monkeypatch.setattr(
        "titans_mal.server.webhook.socket.getaddrinfo", lambda *args, **kwargs: [(0, 1, 6, "", (address, 80))]
    )
    if is_allowed:
        assert AllowList(["hooks.example"]).addresses("hooks.example", 80) == [address]
    else:
        with pytest.raises(PermissionError):
            AllowList(["hooks.example"]).addresses("hooks.example", 80)


def test_a_receiver_that_says_nothing_does_not_keep_a_server_from_stopping():
    became = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        webhook = Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/", "s", LOOPBACK, count=became.append)
        for number in range(3):
            webhook.send({"id": number})
        webhook.close(0.1)
    assert became.count("dropped") >= 2


def test_alerts_of_the_command(receiver, tmp_path):
    assert _alerts(None, None, None, None, claims=None) is None
    with pytest.raises(ValueError, match="also give --webhook-allow"):
        _alerts(SHIPPED, receiver.url, "s", None, claims=None)
    with pytest.raises(ValueError, match="also give --webhook-secret"):
        _alerts(SHIPPED, receiver.url, None, "127.0.0.1", claims=None)
    with pytest.raises(ValueError, match="is not among the allowed hosts"):
        _alerts(SHIPPED, receiver.url, "s", "10.0.0.0/8, hooks.example", claims=None)
    _alerts(SHIPPED, receiver.url, "s", "10.0.0.0/8, 127.0.0.1", claims=None).close()


@pytest.mark.parametrize(
    ("url", "secret", "expected"),
    [
        ("ftp://127.0.0.1/", "s", "needs an http:// or https:// URL"),
        ("http://user:pass@127.0.0.1/", "s", "without user name and password"),
        ("http://127.0.0.1/", "", "needs a secret"),
    ],
)
def test_what_is_no_webhook(url, secret, expected):
    with pytest.raises(ValueError, match=expected):
        Webhook(url, secret, LOOPBACK)
    for entries in ([], ["http://x"], [""]):
        with pytest.raises(ValueError, match=r"No host is allowed|An entry must be"):
            AllowList(entries)
