"""Settings of a server."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ServerSettings:
    """Limits of a server.

    Attributes:
        token: bearer token that clients must send as "Authorization: Bearer ..."; None: no token is required.
        max_megabytes: maximal size of the body of a turn.
        max_upload_megabytes: maximal size of all bodies that are being received or scored; a single one is always
            accepted.
        max_seconds: maximal length of a turn, measured while decoding, since headers may be wrong.
        max_conversations: maximal number of stored conversations, and of channels of open streams; new ones beyond it
            are rejected.
        time_to_live: seconds after which an unused conversation is forgotten; the same as the pool's.
        turn_seconds: maximal time for sending a turn, and for answering it.
        stream_seconds: maximal time that a WebSocket may be open.
        idle_seconds: maximal time that the client of a WebSocket may send nothing.
        protect_operations: also require the token for metrics and documentation; /health is open.

    Raises:
        ValueError: for a value that is not above 0, or an empty token.
    """

    token: str | None = None
    max_megabytes: float = 25.0
    max_upload_megabytes: float = 512.0
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
            raise ValueError(f"The limits of a server must be above 0, got {bounds}.")
        if self.token is not None and (not self.token or not self.token.isascii()):
            raise ValueError("The token must be ASCII and not empty; None means that no token is required.")
        if self.protect_operations and self.token is None:
            raise ValueError("protect_operations needs a token.")
