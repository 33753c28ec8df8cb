"""A server in the test's own process, and a Redis beside it."""

import shutil
import socket
import subprocess
import time

import pytest
from fastapi.testclient import TestClient

from titans_mal import ConversationPool
from titans_mal.server import create_app


@pytest.fixture
def serve(model, processor):
    """Makes a client of a server of its own."""
    clients = []

    def make(settings=None, *, app=None, **pool):
        client = TestClient(create_app(ConversationPool(model, processor, **pool), settings, **app or {}))
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__()


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """The URL of a real Redis on loopback; what tests store, they store under names of their own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: make test-serve installs it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(timeout=30)
