"""The route of the WebSocket.

Annotations are evaluated here: FastAPI reads them.
"""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, WebSocket

from .conversation_routes import Name
from .errors import Refused, close_reason
from .queries import StreamQuery
from .service import Service
from .stream import serve_stream


def stream_route(service: Service) -> APIRouter:
    """/conversations/NAME/stream."""
    router = APIRouter(prefix="/conversations")

    @router.websocket("/{name}/stream")
    async def stream(websocket: WebSocket, name: Name, query: Annotated[StreamQuery, Query()]) -> None:
        if not service.is_allowed(websocket):
            service.metrics.refused("token")
            await websocket.close(1008, "The bearer token is missing or wrong.")
            return
        try:
            with service.limit.stream(query.channels):
                await serve_stream(websocket, service, name, query)
        except HTTPException as error:
            service.metrics.refused(error.reason if isinstance(error, Refused) else "other")
            await websocket.close(1013, close_reason(error.detail))

    return router
