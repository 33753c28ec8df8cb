"""Metrics for Prometheus: counters of the pool, and histograms that can be summed over servers."""

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
    "turns": ("turns", "Scored turns."),
    "failures": ("failures", "Turns that failed after waiting."),
    "evicted": ("evicted_states", "States moved from memory to storage."),
    "restored": ("restored_states", "States restored from storage."),
    "expired": ("expired_states", "States in memory that expired."),
    "lost": ("lost_states", "Conversations that continue without the state of a killed process."),
}


class PoolCollector(Collector):
    """Reads a pool's counters when Prometheus requests them."""

    def __init__(self, pool: ConversationPool):
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        counters = self._pool.counters()
        for key, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"titans_mal_{name}", text, value=counters[key])
        yield GaugeMetricFamily("titans_mal_waiting", "Waiting turns.", value=counters["waiting"])
        yield GaugeMetricFamily("titans_mal_live", "Conversations in memory.", value=counters["live"])


class ServerMetrics(PoolObserver):
    """The metrics of a server; they contain no names of conversations or speakers.

    Args:
        pool: the pool whose turns are counted.

    Attributes:
        registry: the Prometheus registry with the metrics.
    """

    def __init__(self, pool: ConversationPool):
        self.registry = CollectorRegistry()
        self.registry.register(PoolCollector(pool))
        self._latency = Histogram(
            "titans_mal_latency_seconds",
            "Seconds from the submission of a turn to its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "titans_mal_stage_seconds",
            "Seconds of each stage of a turn: detect, decode, wait, forward, store.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "titans_mal_batch_turns", "Turns of a batch.", buckets=_TURNS, registry=self.registry
        )
        self._queue = Histogram(
            "titans_mal_queue_turns",
            "Waiting turns when a turn arrives, including it.",
            buckets=_TURNS,
            registry=self.registry,
        )
        self._refused = Counter(
            "titans_mal_refused_turns", "Rejected turns, by reason.", ["reason"], registry=self.registry
        )
        self._alerts = Counter(
            "titans_mal_alerts", "Attempts to send an alert, by outcome.", ["outcome"], registry=self.registry
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
        """A turn was rejected."""
        self._refused.labels(reason).inc()
