"""Alerts: rules on the turns of each conversation, sent to a webhook."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Protocol

from ..live.pool import PoolObserver
from ..live.turns import TurnEmotion
from .alert_rules import AlertRule
from .webhook import Webhook


class Claims(Protocol):
    """Ensures that an alert of a rule and conversation is sent only once within its cool-down."""

    def claim(self, conversation: str, rule: str, seconds: float) -> bool: ...

    def forget_claims(self, conversation: str, rules: Iterable[str]) -> None: ...


class LocalClaims:
    """Claims of a single server; several servers share claims by `RedisStates`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        self._until: dict[tuple[str, str], float] = {}

    def claim(self, conversation: str, rule: str, seconds: float) -> bool:
        """Whether it has not been claimed within the last claim's seconds."""
        now = self._clock()
        with self._lock:
            self._until = {key: until for key, until in self._until.items() if until > now}
            if (conversation, rule) in self._until:
                return False
            self._until[conversation, rule] = now + seconds
            return True

    def forget_claims(self, conversation: str, rules: Iterable[str]) -> None:
        """Forget the claims of a conversation."""
        with self._lock:
            for rule in rules:
                self._until.pop((conversation, rule), None)


class Alerts(PoolObserver):
    """Sends an alert when a turn triggers a rule, at most once per rule and conversation within its cool-down.

    Args:
        rules: checked for each turn.
        webhook: receives alerts as `{"id", "rule", "conversation", "at", "turn"}`.
        claims: None: only those of this server.
    """

    def __init__(self, rules: Sequence[AlertRule], webhook: Webhook, claims: Claims | None = None):
        self._rules, self.webhook = list(rules), webhook
        self._claims = claims or LocalClaims()

    def check_model(self, labels: Collection[str], dimensions: Collection[str]) -> None:
        """Check that a model predicts what the rules need; arguments and errors as `AlertRule.check_model`."""
        for rule in self._rules:
            rule.check_model(labels, dimensions)

    def answered(self, conversation: str, turns: list[TurnEmotion], stages: Mapping[str, float]) -> None:
        for rule in self._rules:
            if rule.is_triggered_by(turns) and self._claims.claim(conversation, rule.name, rule.cool_down):
                self.webhook.send(
                    {
                        "id": uuid.uuid4().hex,
                        "rule": rule.name,
                        "conversation": conversation,
                        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "turn": asdict(turns[-1]),
                    }
                )

    def forget(self, conversation: str) -> None:
        """Forget a conversation, so that a new one of the same name starts without history."""
        if self._rules:
            self._claims.forget_claims(conversation, [rule.name for rule in self._rules])

    def close(self) -> None:
        """Try waiting alerts once more, and stop."""
        self.webhook.close()
