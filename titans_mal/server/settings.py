"""The bounds of a server."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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
