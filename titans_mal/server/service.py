"""Shared by the server's routes: the pool, its limits, and authorisation."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import HTTPConnection

from ..live.pool import ConversationPool
from .alerts import Alerts
from .errors import Refused
from .limits import ConversationLimit, UploadLimit
from .metrics import ServerMetrics
from .settings import ServerSettings


# Adds a field for the token to `/docs`.
bearer = HTTPBearer(auto_error=False)


@dataclass
class Service:
    """The parts of a server.

    Attributes:
        pool: scores turns.
        settings: settings of the server.
        limit: counts conversations and streams.
        uploads: counts the bytes that are sent at once.
        alerts: None: no alerts.
        metrics: metrics for Prometheus.
        stopping: set when streams are to end.

    Raises:
        ValueError: for alert rules that need what the model does not predict.
    """

    pool: ConversationPool
    settings: ServerSettings
    alerts: Alerts | None = None
    limit: ConversationLimit = field(init=False)
    uploads: UploadLimit = field(init=False)
    metrics: ServerMetrics = field(init=False)
    stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self):
        if self.alerts is not None:
            self.alerts.check_model(self.pool.labels, self.pool.emotion_dimensions)
        self.limit = ConversationLimit(self.settings.max_conversations, self.settings.time_to_live)
        for name in self.pool.names():  # of an earlier server
            self.limit.use(name)
        self.uploads = UploadLimit(self.settings.max_upload_megabytes)
        self.metrics = ServerMetrics(self.pool)
        if self.alerts is not None:
            self.pool.observe(self.alerts)
            self.alerts.webhook.count = self.metrics.alert

    def forget(self, name: str) -> None:
        """Forget a conversation and everything known about it."""
        self.pool.forget(name)
        self.limit.forget(name)
        if self.alerts is not None:
            self.alerts.forget(name)

    def forget_expired(self) -> None:
        """Forget expired conversations."""
        self.pool.forget_expired()
        self.limit.forget_expired()

    async def end_streams(self) -> None:
        """Let all streams end their open turns, answer them and close; waits as long as a turn may take."""
        self.stopping.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.turn_seconds):
                while self.limit.channels:
                    await asyncio.sleep(0.05)

    def is_allowed(self, connection: HTTPConnection) -> bool:
        """Whether a request or WebSocket carries the token, if one is required."""
        if self.settings.token is None:
            return True
        scheme, sent = get_authorization_scheme_param(connection.headers.get("authorization"))
        return scheme.lower() == "bearer" and secrets.compare_digest(sent.encode(), self.settings.token.encode())

    def check_token(self, request: Request) -> None:
        """Reject a request without the token."""
        if not self.is_allowed(request):
            raise Refused(401, "The bearer token is missing or wrong.", "token", {"WWW-Authenticate": "Bearer"})
