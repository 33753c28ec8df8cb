"""The server's application, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import Scope

from .._version import __version__
from ..live.pool import ConversationPool
from .alerts import Alerts
from .asyncapi import PROTOCOL
from .conversation_routes import conversation_routes, person_routes
from .errors import answer_errors
from .gate import Gate, name_hash
from .logs import logger
from .operations import operation_routes
from .service import Service
from .settings import ServerSettings
from .stream_route import stream_route


def create_app(
    pool: ConversationPool,
    settings: ServerSettings | None = None,
    *,
    log_name: Callable[[str], str] | None = None,
    alerts: Alerts | None = None,
) -> FastAPI:
    """Create the application; at shutdown it closes the pool, which scores waiting turns and saves all states.

    Args:
        pool: scores the turns.
        settings: None = the defaults.
        log_name: returns the name under which a conversation appears in logs; None: a keyed hash.
        alerts: sent for the pool's turns; None: no alerts.

    Raises:
        ValueError: for alert rules that need what the model does not predict.
    """
    service = Service(pool, settings or ServerSettings(), alerts)

    def may_operate(scope: Scope) -> bool:
        return not service.settings.protect_operations or service.is_allowed(HTTPConnection(scope))

    app = FastAPI(
        title="titans_mal",
        version=__version__,
        summary="Emotions of live conversations.",
        description=PROTOCOL,
        lifespan=lambda app: _lifespan(service),
    )
    app.state.service = service
    app.add_middleware(Gate, log_name=log_name or name_hash(), is_allowed=may_operate)
    for routes in (conversation_routes, person_routes, stream_route, operation_routes):
        app.include_router(routes(service))
    answer_errors(app, service.metrics.refused)
    return app


@contextlib.asynccontextmanager
async def _lifespan(service: Service) -> AsyncIterator[None]:
    """Forget expired conversations while the server runs; at the end, answer waiting turns and save all states."""
    forgetting = asyncio.create_task(_forget_expired(service))
    yield
    forgetting.cancel()
    await run_in_threadpool(service.pool.close)
    if service.alerts is not None:
        await run_in_threadpool(service.alerts.close)


async def _forget_expired(service: Service) -> None:
    while True:
        await asyncio.sleep(min(60.0, service.settings.time_to_live / 20))
        try:
            await run_in_threadpool(service.forget_expired)
        except OSError as error:
            logger.warning("Conversations cannot be forgotten now: %s", error)
