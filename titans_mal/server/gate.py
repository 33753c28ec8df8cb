"""What every request passes: its names are UTF-8, and logs do not tell who talks with whom."""

from __future__ import annotations

import copy
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose


logger = logging.getLogger("titans_mal.server")

_CONVERSATION = re.compile(r"(/conversations/)([^/]+)(.*)", re.DOTALL)
_OPERATIONS = ("/metrics", "/docs", "/redoc", "/openapi.json")


def name_hash() -> Callable[[str], str]:
    """A function that gives the same short text for the same name, with a key of this process that nobody knows."""
    key = secrets.token_bytes(32)
    return lambda name: hmac.new(key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


class Gate:
    """ASGI middleware: refuses names that are not UTF-8, may protect operations, and logs each request in a line.

    Args:
        app: behind it.
        log_name: what stands for a conversation's name in logs; queries are not logged.
        is_allowed: whether a request may see metrics and documentation.
    """

    def __init__(self, app: ASGIApp, *, log_name: Callable[[str], str], is_allowed: Callable[[Scope], bool]):
        self._app, self._log_name, self._is_allowed = app, log_name, is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 101

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, note)
        else:
            code, detail = refusal
            is_http = scope["type"] == "http"
            answer = JSONResponse({"detail": detail}, code) if is_http else WebSocketClose(1008, detail)
            await answer(scope, receive, note)
        path = _CONVERSATION.sub(lambda found: found[1] + self._log_name(found[2]) + found[3], scope["path"])
        logger.info(
            '%s "%s %s" %d %.0f ms',
            (scope.get("client") or ("-",))[0],
            scope.get("method", "WebSocket"),
            path.encode("ascii", "backslashreplace").decode(),
            status,
            1000 * (time.perf_counter() - began),
        )

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        for part in (scope.get("raw_path") or b"", scope.get("query_string") or b""):
            try:
                unquote_to_bytes(part).decode()
            except UnicodeDecodeError:
                # Decoded with replacements, several names would be one.
                return 422, "A name or a parameter in the address is not UTF-8."
        if scope["path"].startswith(_OPERATIONS) and not self._is_allowed(scope):
            return 401, "The bearer token is missing or wrong."
        return None


class _WithoutPaths(logging.Filter):
    """Leaves out the lines in which uvicorn names the address of a WebSocket."""

    def filter(self, record: logging.LogRecord) -> bool:
        return '"WebSocket ' not in str(record.msg)


def log_config() -> dict:
    """uvicorn's logging, with the lines of `Gate` in place of its own, which hold names and queries."""
    from uvicorn.config import LOGGING_CONFIG

    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"without_paths": {"()": _WithoutPaths}}
    config["handlers"]["default"]["filters"] = ["without_paths"]
    config["loggers"]["uvicorn.access"] = {"handlers": [], "level": "WARNING", "propagate": False}
    config["loggers"][logger.name] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
