"""How many conversations and streams a server takes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator

from .errors import Refused


class ConversationLimit:
    """Counts the conversations that are not forgotten, and those that begin just now.

    Args:
        most: conversations, and open streams.
        time_to_live: seconds after which a conversation that nobody used does not count.
    """

    def __init__(self, most: int, time_to_live: float):
        self._most, self._time_to_live = most, time_to_live
        self._used_at: OrderedDict[str, float] = OrderedDict()
        # Turns that are being processed, of each conversation: its place is taken before it is known to begin.
        self._begun: Counter[str] = Counter()
        self._streams = 0

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[None]:
        """A place for a turn of a conversation; a new one has it for good once the block ends without an error.

        Raises:
            Refused: with 503, for a new conversation beyond the bound.
        """
        self.forget_expired()
        if name not in self._used_at and len(self._used_at.keys() | (self._begun.keys() | {name})) > self._most:
            raise Refused(
                503,
                f"{self._most} conversations go on, which is as many as may.",
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
    def stream(self) -> Iterator[None]:
        """A place for an open stream, which is not yet a conversation: that begins with its first turn.

        Raises:
            Refused: with 503, for one beyond the bound.
        """
        if self._streams >= self._most:
            raise Refused(503, f"{self._most} streams are open, which is as many as may.", "streams")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def use(self, name: str) -> None:
        """Count a conversation as used now."""
        self._used_at[name] = time.monotonic()
        self._used_at.move_to_end(name)

    def forget_expired(self) -> None:
        """Forget the names of conversations that nobody used for their time to live."""
        now = time.monotonic()
        while self._used_at and next(iter(self._used_at.values())) < now - self._time_to_live:
            self._used_at.popitem(last=False)

    def forget(self, name: str) -> None:
        self._used_at.pop(name, None)
