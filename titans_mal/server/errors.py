"""Errors of requests: status for the client, and reason for metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Scope

from ..data.audio import AudioTooLong
from ..live.pool import PoolError


RETRY = {"Retry-After": "1"}


class Refused(HTTPException):
    """A rejected turn.

    Args:
        status: HTTP status.
        detail: message for the client.
        reason: label in metrics.
        headers: headers of the response.
    """

    def __init__(self, status: int, detail: str, reason: str, headers: dict[str, str] | None = None):
        super().__init__(status, detail, headers)
        self.reason = reason


def reason_of(error: Exception) -> str:
    """The reason, for metrics, of an error of a turn."""
    if isinstance(error, Refused):
        return error.reason
    if isinstance(error, RequestValidationError | WebSocketRequestValidationError):
        return "parameters"
    if isinstance(error, AudioTooLong):
        return "too_long"
    if isinstance(error, PoolError):
        return "queue"
    if isinstance(error, OSError):
        return "states"
    return "unusable" if isinstance(error, ValueError) else "other"


def request_id(scope: Scope) -> str | None:
    """The id that `Gate` gave a request."""
    return scope.get("state", {}).get("request_id")


def answer_errors(app: FastAPI, count: Callable[[str], None]) -> None:
    """Answer errors with their detail and the request's id, and count rejected turns by reason."""

    def answer(request: Request, error: Exception, status: int, detail: str, headers=None) -> JSONResponse:
        if request.method == "POST":  # only turns are sent by POST
            count(reason_of(error))
        return JSONResponse({"detail": detail, "request_id": request_id(request.scope)}, status, headers)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return answer(request, error, error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def bad_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(request, error, 422, in_one_line(error))

    @app.exception_handler(ValueError)
    async def bad_turn(request: Request, error: ValueError) -> JSONResponse:
        return answer(request, error, 422, str(error))

    @app.exception_handler(PoolError)
    @app.exception_handler(OSError)
    async def not_now(request: Request, error: Exception) -> JSONResponse:
        return answer(request, error, 503, str(error), RETRY)

    @app.exception_handler(WebSocketRequestValidationError)
    async def bad_stream(websocket: WebSocket, error: WebSocketRequestValidationError) -> None:
        count(reason_of(error))
        detail = in_one_line(error)
        if "websocket.http.response" in websocket.scope.get("extensions", {}):
            content = {"detail": detail, "request_id": request_id(websocket.scope)}
            await websocket.send_denial_response(JSONResponse(content, 422))
        else:
            await websocket.close(1008, close_reason(detail))


def close_reason(error: object) -> str:
    """An error message cut to the bytes that a WebSocket close frame may hold."""
    return str(error).encode("utf-8", "replace")[:120].decode("utf-8", "ignore")


def in_one_line(error: RequestValidationError | WebSocketRequestValidationError | ValidationError) -> str:
    """The fields that pydantic rejected, and why, in up to 900 characters."""
    lines = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"])
        reason = one["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {reason}" if place else reason)
    return "; ".join(lines)[:900]
