"""A server of live conversations over a `ConversationPool`: REST, WebSocket, metrics."""

from .app import create_app
from .settings import ServerSettings


__all__ = ["ServerSettings", "create_app"]
