"""The server's HTTP interface.

Annotations are evaluated here: FastAPI reads them, and some name what a function holds.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import ClientDisconnect, HTTPConnection

from .._version import __version__
from ..data.audio import AudioTooLong
from ..live.pool import ConversationPool, PoolError
from ..live.turns import TurnEmotion
from .gate import Gate, name_hash
from .limits import ConversationLimit
from .metrics import PoolCollector
from .stream import serve_stream


@dataclass(frozen=True)
class ServerSettings:
    """Bounds of a server.

    Attributes:
        token: that a client must send as "Authorization: Bearer ..."; None: none is asked for.
        max_megabytes: of the body of a turn.
        max_seconds: of the audio of a turn, as it is decoded: a small file may hold much, and its header may lie.
        max_conversations: that are not forgotten; a new one beyond them is refused.
        time_to_live: seconds after which a conversation counts no more that nobody used; that of the pool.
        turn_seconds: that the sending of a turn may take, and the answer.
        stream_seconds: that a WebSocket may be open.
        idle_seconds: that the client of a WebSocket may send nothing.
        protect_operations: ask for the token also where metrics and documentation are; /health is open.

    Raises:
        ValueError: for a bound that is not above 0, or an empty token.
    """

    token: str | None = None
    max_megabytes: float = 25.0
    max_seconds: float = 300.0
    max_conversations: int = 1000
    time_to_live: float = 3600.0
    turn_seconds: float = 60.0
    stream_seconds: float = 3600.0
    idle_seconds: float = 60.0
    protect_operations: bool = False

    def __post_init__(self):
        bounds = {name: value for name, value in asdict(self).items() if name not in ("token", "protect_operations")}
        if not all(value > 0 for value in bounds.values()):
            raise ValueError(f"The bounds of a server are above 0, got {bounds}.")
        if self.token is not None and (not self.token or not self.token.isascii()):
            raise ValueError("The token is empty or no ASCII: give one, or none at all.")
        if self.protect_operations and self.token is None:
            raise ValueError("Without a token nothing is protected: give one beside protect_operations.")


Name = Annotated[str, Path(min_length=1, max_length=200, description="Of the conversation; a new one begins it.")]


def create_app(
    pool: ConversationPool,
    settings: ServerSettings | None = None,
    *,
    log_name: Callable[[str], str] | None = None,
) -> FastAPI:
    """The application; when it stops, it closes the pool, which scores what waits and saves all states.

    Args:
        pool: that scores the turns.
        settings: None = the defaults.
        log_name: what stands for a conversation's name in logs; None: a hash with a key of this process.
    """
    settings = settings or ServerSettings()
    limit = ConversationLimit(settings.max_conversations, settings.time_to_live)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(pool.close)

    app = FastAPI(
        title="titans_mal", version=__version__, summary="Emotions of live conversations.", lifespan=lifespan
    )
    app.add_middleware(
        Gate,
        log_name=log_name or name_hash(),
        is_allowed=lambda scope: not settings.protect_operations or _is_allowed(HTTPConnection(scope), settings),
    )
    _add_operations(app, pool)
    _answer_errors(app)

    def check_token(request: Request, _: Annotated[object, Depends(HTTPBearer(auto_error=False))]) -> None:
        if not _is_allowed(request, settings):
            raise HTTPException(401, "The bearer token is missing or wrong.", {"WWW-Authenticate": "Bearer"})

    protected = [Depends(check_token)]

    @app.post("/conversations/{name}/turns", dependencies=protected, openapi_extra=_SOUND)
    async def add_turn(
        name: Name,
        request: Request,
        speaker: Annotated[str | None, Query(max_length=200)] = None,
        start: Annotated[float | None, Query(description="Seconds; None: as the turn before ends.")] = None,
        anew: Annotated[bool, Query(description="Forget what was said so far.")] = False,
        idempotency_key: Annotated[
            str | None, Header(max_length=200, description="Of this turn: a request that repeats it adds none.")
        ] = None,
    ) -> TurnEmotion:
        """Score the next turn of a conversation: a sound file as the body.

        A request that the client gives up after its body was sent is processed all the same. One that is answered
        with 504 says whether its turn was withdrawn. Sent again with the same `Idempotency-Key`, a turn that was
        written is answered and not written twice.
        """
        with limit.place(name):
            body = await _body(request, settings)
            try:
                future = await run_in_threadpool(
                    pool.submit,
                    name,
                    body,
                    speaker=speaker,
                    start=start,
                    anew=anew,
                    max_seconds=settings.max_seconds,
                    retry_key=idempotency_key,
                )
            except AudioTooLong:
                raise HTTPException(413, f"A turn lasts up to {settings.max_seconds:g} s.") from None
            try:
                return await asyncio.wait_for(asyncio.wrap_future(future), settings.turn_seconds)
            except TimeoutError:
                fate = "withdrawn"
                if not future.cancel():
                    limit.use(name)
                    fate = "processed all the same"
                raise HTTPException(
                    504, f"No answer within {settings.turn_seconds:g} s; the turn is {fate}."
                ) from None

    @app.get("/conversations/{name}", dependencies=protected)
    async def history(name: Name) -> list[TurnEmotion]:
        """The turns of a conversation so far."""
        turns = await run_in_threadpool(pool.history, name)
        if not turns:
            raise HTTPException(404, f"No turn of a conversation {name!r} is known.")
        return turns

    @app.delete("/conversations/{name}", status_code=204, dependencies=protected)
    async def forget(name: Name) -> None:
        """Forget a conversation."""
        await run_in_threadpool(pool.forget, name)
        limit.forget(name)

    @app.websocket("/conversations/{name}/stream")
    async def stream(
        websocket: WebSocket,
        name: Name,
        sampling_rate: int = 16_000,
        speaker: Annotated[str | None, Query(max_length=200)] = None,
    ) -> None:
        if not _is_allowed(websocket, settings):
            await websocket.close(1008, "The bearer token is missing or wrong.")
            return
        try:
            with limit.stream():
                await serve_stream(
                    websocket,
                    pool,
                    name,
                    sampling_rate,
                    speaker,
                    limit=limit,
                    seconds=settings.stream_seconds,
                    idle_seconds=settings.idle_seconds,
                )
        except HTTPException as error:
            await websocket.close(1013, error.detail)

    return app


def _add_operations(app: FastAPI, pool: ConversationPool) -> None:
    """What those ask for who run the server."""
    registry = CollectorRegistry()
    registry.register(PoolCollector(pool))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server takes turns."""
        if pool.is_closed:
            raise HTTPException(503, "The server is about to stop.")
        return {"status": "ok", "version": __version__}

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _answer_errors(app: FastAPI) -> None:
    """What a turn that cannot be heard is answered with, now or ever."""

    @app.exception_handler(ValueError)
    async def bad_turn(request: Request, error: ValueError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(PoolError)
    @app.exception_handler(OSError)
    async def not_now(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


_SOUND = {
    "requestBody": {
        "required": True,
        "content": {"audio/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _is_allowed(connection: HTTPConnection, settings: ServerSettings) -> bool:
    """Whether a request or a WebSocket carries the token, where one is asked for."""
    if settings.token is None:
        return True
    scheme, sent = get_authorization_scheme_param(connection.headers.get("authorization"))
    return scheme.lower() == "bearer" and secrets.compare_digest(sent.encode(), settings.token.encode())


async def _body(request: Request, settings: ServerSettings) -> bytes:
    """The body, of which no more is read than is allowed, and for no longer."""
    pieces, size, most = [], 0, settings.max_megabytes * 1_000_000
    try:
        async with asyncio.timeout(settings.turn_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise HTTPException(413, f"A turn is a sound file of up to {settings.max_megabytes:g} MB.")
                pieces.append(piece)
    except TimeoutError:
        raise HTTPException(408, f"The body did not come within {settings.turn_seconds:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The client went away.") from None
    if not size:
        raise HTTPException(422, "The body is empty: send a sound file.")
    return b"".join(pieces)
