"""A server of live conversations over a `ConversationPool`: REST, WebSocket, metrics."""

from .app import ServerSettings, create_app


__all__ = ["ServerSettings", "create_app"]
