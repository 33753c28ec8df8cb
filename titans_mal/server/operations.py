"""Routes for operators.

Annotations are evaluated here: FastAPI reads them.
"""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .._version import __version__
from .answers import ErrorAnswer, Health
from .asyncapi import asyncapi
from .queries import NoQuery
from .service import Service


def operation_routes(service: Service) -> APIRouter:
    """/health, /metrics and /asyncapi.json."""
    router = APIRouter(tags=["operations"])

    @router.get("/health", responses={503: {"model": ErrorAnswer}})
    async def health(_: Annotated[NoQuery, Query()]) -> Health:
        """Whether the server accepts turns."""
        if service.pool.is_closed:
            raise HTTPException(503, "The server is shutting down.")
        return Health("ok", __version__)

    @router.get("/metrics", response_class=Response)
    def metrics(_: Annotated[NoQuery, Query()]) -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/asyncapi.json")
    def stream_protocol(_: Annotated[NoQuery, Query()]) -> dict[str, Any]:
        """The WebSocket protocol, as AsyncAPI."""
        return asyncapi()

    return router
