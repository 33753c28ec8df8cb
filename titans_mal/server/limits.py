"""Limits for the number of conversations and streams, and for the total size of requests."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from .errors import RETRY, Refused


class ConversationLimit:
    """Counts stored conversations, and those that are being created.

    Args:
        most: maximal number of conversations, and of channels of open streams, each of which has its own detector.
        time_to_live: seconds after which an unused conversation does not count.

    Attributes:
        channels: number of channels of open streams.
    """

    def __init__(self, most: int, time_to_live: float):
        self._most, self._time_to_live = most, time_to_live
        self._used_at: OrderedDict[str, float] = OrderedDict()
        # Number of turns in progress per conversation, which reserves its place before it is created.
        self._begun: Counter[str] = Counter()
        self.channels = 0

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[None]:
        """Reserve a place for a turn of a conversation; a new conversation keeps it if the block succeeds.

        Raises:
            Refused: with 503, for a new conversation beyond the limit.
        """
        self.forget_expired()
        if name not in self._used_at and len(self._used_at.keys() | (self._begun.keys() | {name})) > self._most:
            raise Refused(
                503,
                f"The limit of {self._most} conversations is reached.",
                "conversations",
                {"Retry-After": "60"},
            )
        self._begun[name] += 1
        try:
            yield
            self.use(name)
        finally:
            self._begun[name] -= 1
            if not self._begun[name]:
                del self._begun[name]

    @contextlib.contextmanager
    def stream(self, channels: int = 1) -> Iterator[None]:
        """Reserve a place for an open stream, which becomes a conversation with its first turn.

        Raises:
            Refused: with 503, beyond the limit; a single stream is always accepted.
        """
        if self.channels and self.channels + channels > self._most:
            raise Refused(503, f"The limit of {self._most} open streams is reached.", "streams")
        self.channels += channels
        try:
            yield
        finally:
            self.channels -= channels

    def use(self, name: str) -> None:
        """Mark a conversation as used now."""
        self._used_at[name] = time.monotonic()
        self._used_at.move_to_end(name)

    def forget_expired(self) -> None:
        """Forget the names of expired conversations."""
        now = time.monotonic()
        while self._used_at and next(iter(self._used_at.values())) < now - self._time_to_live:
            self._used_at.popitem(last=False)

    def forget(self, name: str) -> None:
        self._used_at.pop(name, None)


class UploadLimit:
    """Counts the bytes of all requests that are being received or answered.

    Args:
        megabytes: maximal size of all together; a single request is always accepted.
    """

    def __init__(self, megabytes: float):
        self._most, self._held = megabytes * 1_000_000, 0

    @contextlib.contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """A function to call with the size of each received piece of a request; the bytes count until it ends.

        Raises:
            Refused: with 503 from that function, beyond the limit.
        """
        own = 0

        def received(size: int) -> None:
            nonlocal own
            if self._held + size > self._most and self._held > own:
                detail = f"Other requests hold {self._held / 1e6:.0f} MB of audio: try again later."
                raise Refused(503, detail, "uploads", RETRY)
            own += size
            self._held += size

        try:
            yield received
        finally:
            self._held -= own
