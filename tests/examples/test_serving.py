"""The client of examples/serving against a server on loopback."""

import importlib.util
import json
import sys
import threading
import wave
from pathlib import Path

import numpy as np
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


@pytest.fixture
def run_client(monkeypatch):
    """Run the client as a command."""
    spec = importlib.util.spec_from_file_location("serving_client", EXAMPLES / "serving" / "client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)

    def run(*arguments) -> None:
        monkeypatch.setattr(sys, "argv", ["client.py", *map(str, arguments)])
        client.main()

    return run


def test_the_client_over_rest_and_stream(address, run_client, monkeypatch, capsys):
    monkeypatch.setenv("TITANS_MAL_TOKEN", "secret")
    run_client(TURN, "--url", address, "--conversation", "call 1")
    first, *others = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["conversation"], first["turn_index"], first["speaker"]) == ("call 1", 0, "caller")
    assert [turn["turn_index"] for turn in others] == [1]
    assert others[0]["label"] is not None


def test_what_the_client_cannot_do_is_one_line(address, run_client, monkeypatch, tmp_path):
    monkeypatch.delenv("TITANS_MAL_TOKEN", raising=False)
    with pytest.raises(SystemExit, match=r"^The server refused the turn, with status 401: .*token.*\Z"):
        run_client(TURN, "--url", address)
    monkeypatch.setenv("TITANS_MAL_TOKEN", "secret")
    with pytest.raises(SystemExit, match=r"missing.wav.*No such file.*\Z"):
        run_client(tmp_path / "missing.wav", "--url", address)
    with pytest.raises(SystemExit, match=r"could not be sent to http://127.0.0.1:9: .*refused.*\Z"):
        run_client(TURN, "--url", "http://127.0.0.1:9")
    stereo = tmp_path / "stereo.wav"
    with wave.open(str(stereo), "wb") as audio:
        audio.setparams((2, 2, 16_000, 0, "NONE", ""))
        audio.writeframes(np.random.default_rng(0).integers(-9000, 9000, 32_000, np.int16).repeat(2).tobytes())
    with pytest.raises(SystemExit, match=r"stereo.wav is not a mono WAV file of 16-bit integers.*\Z"):
        run_client(stereo, "--url", address)
