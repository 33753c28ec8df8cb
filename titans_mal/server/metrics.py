"""What Prometheus reads: counters of the pool, and histograms, which add up over servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..live.pool import ConversationPool, PoolObserver
from ..live.turns import TurnEmotion


_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)
_TURNS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024)
_COUNTERS = {
    "turns": ("turns", "Turns that were answered."),
    "failures": ("failures", "Turns that failed after they had waited."),
    "evicted": ("evicted_states", "States that left memory for where states lie."),
    "restored": ("restored_states", "States that were read from where they lie."),
    "expired": ("expired_states", "States at hand that were forgotten after their time to live."),
    "lost": ("lost_states", "Conversations that go on without what a killed process had in memory."),
}


class PoolCollector(Collector):
    """Asks a pool for its counters when Prometheus asks for them."""

    def __init__(self, pool: ConversationPool):
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        counters = self._pool.counters()
        for key, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"titans_mal_{name}", text, value=counters[key])
        yield GaugeMetricFamily("titans_mal_waiting", "Turns that wait.", value=counters["waiting"])
        yield GaugeMetricFamily("titans_mal_live", "Conversations at hand.", value=counters["live"])


class ServerMetrics(PoolObserver):
    """The metrics of a server; no name of a conversation or a speaker is in them.

    Args:
        pool: whose turns are counted.

    Attributes:
        registry: that holds them.
    """

    def __init__(self, pool: ConversationPool):
        self.registry = CollectorRegistry()
        self.registry.register(PoolCollector(pool))
        self._latency = Histogram(
            "titans_mal_latency_seconds",
            "From submission of a turn to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "titans_mal_stage_seconds",
            "Of each stage of a turn: detect, decode, wait, forward, store.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "titans_mal_batch_turns", "Turns of a batch.", buckets=_TURNS, registry=self.registry
        )
        self._queue = Histogram(
            "titans_mal_queue_turns",
            "Turns that waited when a turn came, with it.",
            buckets=_TURNS,
            registry=self.registry,
        )
        self._refused = Counter(
            "titans_mal_refused_turns", "Turns that were refused, by reason.", ["reason"], registry=self.registry
        )
        self._alerts = Counter(
            "titans_mal_alerts", "Tries to send an alert, by outcome.", ["outcome"], registry=self.registry
        )
        pool.observe(self)

    def queued(self, waiting: int) -> None:
        self._queue.observe(waiting)

    def batch(self, turns: int) -> None:
        self._batches.observe(turns)

    def answered(self, conversation: str, turns: list[TurnEmotion], stages: Mapping[str, float]) -> None:
        for stage, seconds in stages.items():
            self._stages.labels(stage).observe(seconds)
        # A turn of a stream is submitted when it has been detected.
        self._latency.observe(sum(seconds for stage, seconds in stages.items() if stage != "detect"))

    def alert(self, outcome: str) -> None:
        """An alert was sent, will be sent again, or was dropped."""
        self._alerts.labels(outcome).inc()

    def refused(self, reason: str) -> None:
        """A turn was refused."""
        self._refused.labels(reason).inc()
