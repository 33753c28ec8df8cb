"""Simulate a queue that is served in batches: latencies of given arrivals, from the times that batches take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def simulate(
    arrivals: Sequence[tuple[float, str]], batch_seconds: dict[int, float], max_batch: int, *, before: float = 0.0
) -> list[float]:
    """The latency of each arrival at one server that never waits: whenever it is free, it takes what is there.

    Args:
        arrivals: time, in seconds and increasing, and conversation of each turn.
        batch_seconds: of a batch, by its turns; sizes between are interpolated.
        max_batch: turns of a batch, of different conversations: the first that waits of each.
        before: seconds that a turn takes before it waits, in parallel to others (decoding).
    """
    sizes = sorted(batch_seconds)
    latencies = [0.0] * len(arrivals)
    waiting: list[int] = []
    free_at, following = 0.0, 0
    while waiting or following < len(arrivals):
        if not waiting:
            free_at = max(free_at, arrivals[following][0] + before)
        while following < len(arrivals) and arrivals[following][0] + before <= free_at:
            waiting.append(following)
            following += 1
        chosen: dict[str, int] = {}
        for turn in waiting:
            if len(chosen) < max_batch:
                chosen.setdefault(arrivals[turn][1], turn)
        free_at += float(np.interp(len(chosen), sizes, [batch_seconds[size] for size in sizes]))
        for turn in chosen.values():
            latencies[turn] = free_at - arrivals[turn][0]
        waiting = [turn for turn in waiting if turn not in chosen.values()]
    return latencies
