"""Many live calls at once: `ConversationPool` against one analyzer a call, one turn after the other.

Each call pushes its turns as fast as they are answered. The two ways alternate; medians are printed.

    python examples/benchmarks/pooled_calls.py [--calls 200] [--turns 4] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion, ConversationAnalyzer, ConversationPool, load_audio


QUICKSTART = Path(__file__).resolve().parents[1] / "quickstart"


def one_by_one(model, processor, calls: int, turns: list) -> float:
    """Seconds for all turns of all calls."""
    analyzers = [ConversationAnalyzer(model, processor) for _ in range(calls)]
    began = time.perf_counter()
    for turn in turns:
        for analyzer in analyzers:
            analyzer.push(turn, 16_000)
    return time.perf_counter() - began


def together(model, processor, calls: int, turns: list, max_batch: int) -> tuple[float, dict]:
    """Seconds for all turns of all calls, each in a thread of its own, and the pool's counters."""
    with ConversationPool(model, processor, max_batch=max_batch, max_live=calls) as pool:

        def talk(call: int) -> None:
            for turn in turns:
                pool.push(f"call {call}", turn, 16_000)

        with ThreadPoolExecutor(calls) as threads:
            began = time.perf_counter()
            list(threads.map(talk, range(calls)))
            seconds = time.perf_counter() - began
        return seconds, pool.counters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=QUICKSTART / "tiny-qwen2-audio-mal")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-batch", type=int, default=32)
    arguments = parser.parse_args()

    model = AutoModelForAudioEmotion.from_pretrained(arguments.model)
    processor = AutoProcessor.from_pretrained(arguments.model)
    files = sorted((QUICKSTART / "conversation").glob("turn_*.wav"))
    turns = [load_audio(files[i % len(files)]) for i in range(arguments.turns)]
    total = arguments.calls * arguments.turns
    alone, pooled, counters = [], [], {}
    for _ in range(arguments.rounds):
        alone.append(one_by_one(model, processor, arguments.calls, turns))
        seconds, counters = together(model, processor, arguments.calls, turns, arguments.max_batch)
        pooled.append(seconds)
    first, second = statistics.median(alone), statistics.median(pooled)
    print(f"| {arguments.calls} calls of {arguments.turns} turns | turns a second |")
    print("| --- | --- |")
    print(f"| one by one | {total / first:.1f} |")
    print(f"| pool, up to {arguments.max_batch} turns a batch | {total / second:.1f} ({first / second:.2f} times) |")
    print(f"\nThe last round of the pool: {counters}")


if __name__ == "__main__":
    main()
