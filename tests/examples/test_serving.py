"""The client of examples/serving against a server on loopback."""

import importlib.util
import json
import sys
import threading
from pathlib import Path

import pytest
import uvicorn
from tiny_models import tiny_model, tiny_processor

from titans_mal import ConversationPool
from titans_mal.server import ServerSettings, create_app


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TURN = EXAMPLES / "quickstart" / "conversation" / "turn_02_B.wav"


@pytest.fixture
def address():
    """Of a server that listens in a thread, with a token."""
    app = create_app(ConversationPool(tiny_model(), tiny_processor()), ServerSettings(token="secret"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_client_over_rest_and_stream(address, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("serving_client", EXAMPLES / "serving" / "client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    monkeypatch.setenv("TITANS_MAL_TOKEN", "secret")
    monkeypatch.setattr(sys, "argv", ["client.py", str(TURN), "--url", address, "--conversation", "call 1"])
    client.main()
    first, *others = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["conversation"], first["turn_index"], first["speaker"]) == ("call 1", 0, "caller")
    assert [turn["turn_index"] for turn in others] == [1]
    assert others[0]["label"] is not None
