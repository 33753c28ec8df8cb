"""Middleware for every request: assigns an id, checks that names are UTF-8, and logs without names."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from .logs import logger


# Parts of addresses that logs show; all others may be names, also where a client mistakes an address.
_SHOWN = {"", "health", "metrics", "docs", "redoc", "openapi.json", "asyncapi.json", "oauth2-redirect"}
_SHOWN |= {"conversations", "persons", "turns", "summary", "stream"}
_OPERATIONS = ("/metrics", "/docs", "/redoc", "/openapi.json", "/asyncapi.json")
# A client's or proxy's request id is kept if it has this form.
_REQUEST_ID = re.compile(rb"[\w.:/+=-]{1,128}")
_ID_HEADER = b"x-request-id"


def name_hash() -> Callable[[str], str]:
    """A function that maps a name to a short hash, keyed with a random key of this process."""
    key = secrets.token_bytes(32)
    return lambda name: hmac.new(key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]


class Gate:
    """ASGI middleware: gives each request an id (the client's `X-Request-ID`, or a new one), also in its response,
    rejects URLs that are not ASCII, names that are not UTF-8 and repeated parameters, may protect operations, and logs
    each request on a line.

    Args:
        app: the wrapped application.
        log_name: returns the name under which a conversation, a person, or an unknown part of an address appears in
            logs; queries are not logged.
        is_allowed: whether a request may access metrics and documentation.
    """

    def __init__(self, app: ASGIApp, *, log_name: Callable[[str], str], is_allowed: Callable[[Scope], bool]):
        self._app, self._log_name, self._is_allowed = app, log_name, is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 101
        given = dict(scope["headers"]).get(_ID_HEADER, b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                status = message.get("status", status)
                message = {**message, "headers": [*message.get("headers", ()), (_ID_HEADER, request_id)]}
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, note)
        finally:
            self._log(scope, status, 1000 * (time.perf_counter() - began))

    def _log(self, scope: Scope, status: int, milliseconds: float) -> None:
        parts = scope["path"].split("/")
        path = "/".join(
            part if part in _SHOWN and previous not in ("conversations", "persons") else self._log_name(part)
            for previous, part in zip(["", *parts], parts)
        )
        fields = {
            "client": (scope.get("client") or ("-",))[0],
            "method": scope.get("method", "WebSocket"),
            # Neither other scripts nor line breaks, whatever `log_name` returns.
            "path": path.encode("unicode_escape").decode(),
            "status": status,
            "milliseconds": round(milliseconds),
            "request_id": scope["state"]["request_id"],
        }
        line = '%(client)s "%(method)s %(path)s" %(status)d %(milliseconds)d ms %(request_id)s'
        logger.info(line, fields, extra=fields)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        for part in (scope.get("raw_path") or b"", scope.get("query_string") or b""):
            if not part.isascii():
                return _answer(scope, 422, "The URL is not ASCII: percent-encode names and parameters.")
            try:
                unquote_to_bytes(part).decode()
            except UnicodeDecodeError:
                # Decoding with replacement would map several names to one.
                return _answer(scope, 422, "A name or parameter in the URL is not UTF-8.")
        given = Counter(name for name, _ in parse_qsl((scope.get("query_string") or b"").decode(), True))
        if twice := [name[:40] for name, times in given.items() if times > 1]:
            return _answer(scope, 422, f"The parameters {', '.join(twice[:5])} are given more than once.")
        if scope["path"].startswith(_OPERATIONS) and not self._is_allowed(scope):
            return _answer(scope, 401, "The bearer token is missing or wrong.")
        return None


def _answer(scope: Scope, status: int, detail: str) -> ASGIApp:
    if scope["type"] == "websocket":
        return WebSocketClose(1008, detail)
    return JSONResponse({"detail": detail, "request_id": scope["state"]["request_id"]}, status)
