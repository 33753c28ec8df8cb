"""Conversation states in Redis, for several servers of the same conversations."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Literal

import redis
from redis.backoff import NoBackoff
from redis.lock import Lock
from redis.retry import Retry

from ..modeling.conversation_store import ConversationInUse, state_key


class RedisStates:
    """The interface that `ConversationStore` expects of its `states`, in Redis.

    Args:
        url: "redis://host:port/db".
        prefix: prefix of all keys.
        lock_seconds: after which the lock of a conversation expires if its server has disappeared. A running server
            renews its locks, so a turn may take longer.
        most_seconds: maximal time for which a lock is renewed; a turn that takes longer is stuck.
        wait_seconds: maximal time to wait for a conversation that is in use elsewhere.

    Raises:
        OSError: from its methods, if Redis does not answer, or has not for `lock_seconds` during a turn, so that
            another server may have taken the conversation.
        ConversationInUse: from `lock`.
    """

    is_shared: Literal[True] = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "titans_mal",
        lock_seconds: float = 5.0,
        most_seconds: float = 300.0,
        wait_seconds: float = 0.1,
    ):
        self._prefix, self._lock_seconds, self._wait_seconds = prefix, lock_seconds, wait_seconds
        self._most_seconds = most_seconds
        self._held: dict[str, Lock] = {}
        # Renews the locks of turns in progress; exists while there are locks.
        self._guard = threading.Lock()
        self._renewer: threading.Thread | None = None
        with _as_os_error():
            # A Redis that stands still must not stop the turns of all conversations for ever.
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=lock_seconds,
                socket_connect_timeout=lock_seconds,
                retry=Retry(NoBackoff(), retries=1),
            )
            self._redis.ping()

    def part(self, name: str) -> RedisStates:
        """A separate store of states in the same Redis, with its own prefix."""
        twin = copy.copy(self)
        twin._prefix = f"{self._prefix}:{name}"
        twin._held, twin._guard, twin._renewer = {}, threading.Lock(), None
        return twin

    def read(self, name: str) -> bytes | None:
        with _as_os_error():
            content = self._redis.get(self._key(name))
        return content if isinstance(content, bytes) else None

    def write(self, name: str, content: bytes, seconds: float) -> None:
        with _as_os_error():
            if name in self._held:
                # Raises if the lock has expired, since the state may now be another server's.
                self._held[name].reacquire()
            self._redis.set(self._key(name), content, px=_milliseconds(seconds))
            self._redis.zadd(self._names, {name: self._now() + _milliseconds(seconds) / 1000})

    def delete(self, name: str) -> None:
        with _as_os_error():
            self._redis.delete(self._key(name))
            self._redis.zrem(self._names, name)

    def names(self) -> list[str]:
        """Names of the conversations whose states are stored."""
        with _as_os_error():
            self._redis.zremrangebyscore(self._names, "-inf", self._now())
            stored = self._redis.zrange(self._names, 0, -1)
        return sorted(name.decode() for name in stored if isinstance(name, bytes))

    def claim(self, conversation: str, rule: str, seconds: float) -> bool:
        """Whether no server has claimed a rule of a conversation within the claim's seconds."""
        with _as_os_error():
            return bool(self._redis.set(self._claim(conversation, rule), 1, px=_milliseconds(seconds), nx=True))

    def forget_claims(self, conversation: str, rules: Iterable[str]) -> None:
        """Forget the claims of a conversation."""
        keys = [self._claim(conversation, rule) for rule in rules]
        with _as_os_error():
            self._redis.delete(*keys)

    def forget_old(self) -> None:
        """Nothing to do: Redis expires keys itself."""

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock a conversation."""
        lock = self._redis.lock(
            f"{self._key(name)}:lock",
            timeout=self._lock_seconds,
            blocking_timeout=self._wait_seconds,
            thread_local=False,
        )
        with _as_os_error():
            is_free = lock.acquire()
        if not is_free:
            raise ConversationInUse(f"The conversation {name!r} is in use elsewhere.")
        with self._guard:
            self._held[name] = lock
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="RedisStates", daemon=True)
                self._renewer.start()
        try:
            yield
        finally:
            with self._guard:
                del self._held[name]
            # Another server may hold a lock that could not be renewed; `write` has reported it.
            with contextlib.suppress(redis.RedisError):
                lock.release()

    def _renew(self) -> None:
        """Renew all held locks, several times before they expire, until there are none."""
        since: dict[Lock, float] = {}
        while True:
            time.sleep(self._lock_seconds / 4)
            with self._guard:
                held = list(self._held.values())
                if not held:
                    self._renewer = None
                    return
            now = time.monotonic()
            since = {lock: since.get(lock, now) for lock in held}
            for lock, began in since.items():
                if now - began < self._most_seconds:
                    # A lock that was released or lost must not be renewed.
                    with contextlib.suppress(redis.RedisError):
                        lock.reacquire()

    def _now(self) -> float:
        """The time by the clock of Redis, since those of servers may differ."""
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    @property
    def _names(self) -> str:
        """The key of a sorted set: names by the time when their states expire."""
        return f"{self._prefix}:names"

    def _claim(self, conversation: str, rule: str) -> str:
        return f"{self._key(conversation)}:alert:{state_key(rule)}"

    def _key(self, name: str) -> str:
        return f"{self._prefix}:{state_key(name)}"


def _milliseconds(seconds: float) -> int:
    """A time to live as Redis takes it: from a millisecond to thirty years."""
    return round(1000 * min(max(seconds, 0.001), 1e9))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise OSError(f"Redis does not answer: {error}") from error
