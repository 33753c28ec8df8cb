"""A server in the test's own process."""

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
