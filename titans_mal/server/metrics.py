"""The counters of a pool for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..live.pool import ConversationPool


class PoolCollector(Collector):
    """Asks a pool for its counters when Prometheus asks for them."""

    def __init__(self, pool: ConversationPool):
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        counters = self._pool.counters()
        yield CounterMetricFamily("titans_mal_turns", "Turns heard.", value=counters["turns"])
        yield CounterMetricFamily("titans_mal_failures", "Turns that failed.", value=counters["failures"])
        yield GaugeMetricFamily("titans_mal_waiting", "Turns that wait.", value=counters["waiting"])
        yield GaugeMetricFamily("titans_mal_live", "Conversations at hand.", value=counters["live"])
        batches = CounterMetricFamily("titans_mal_batches", "Batches heard, by their turns.", labels=["turns"])
        for size, count in counters["batches"].items():
            batches.add_metric([str(size)], count)
        yield batches
        latency = GaugeMetricFamily(
            "titans_mal_latency_seconds",
            "From submission to answer, of the last thousand turns.",
            labels=["percentile"],
        )
        for name, seconds in counters["latency"].items():
            if seconds is not None:
                latency.add_metric([name.removeprefix("p")], seconds)
        yield latency
