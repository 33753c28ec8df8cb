"""An hour of talk in one conversation: does memory grow, does a turn cost more at the end, is it faster than the talk?

A synthetic call of 600 turns of up to 6 s goes through a `ConversationAnalyzer`.

    python examples/benchmarks/long_call.py [--turns 600]
"""

from __future__ import annotations

import argparse
import resource
import statistics
from pathlib import Path

import numpy as np
from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion, ConversationAnalyzer


CHECKPOINT = Path(__file__).resolve().parents[1] / "quickstart" / "tiny-qwen2-audio-mal"
RATE = 16_000


def made_up_turn(index: int) -> np.ndarray:
    """(samples,) of a voice: harmonics of a pitch of its own, of 6 s."""
    rng = np.random.default_rng(index)
    time = np.arange(6 * RATE) / RATE
    pitch = (110, 190)[index % 2] * rng.uniform(0.8, 1.3)
    voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
    return (0.1 * voice * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def megabytes() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=CHECKPOINT)
    parser.add_argument("--turns", type=int, default=600)
    arguments = parser.parse_args()

    model = AutoModelForAudioEmotion.from_pretrained(arguments.model)
    analyzer = ConversationAnalyzer(model, AutoProcessor.from_pretrained(arguments.model))
    part = max(1, arguments.turns // 6)
    print("| turns | seconds a turn (median) | resident MB | state bytes |")
    print("| --- | --- | --- | --- |")
    for first in range(0, arguments.turns, part):
        last = min(first + part, arguments.turns)
        turns = [analyzer.push(made_up_turn(i), RATE, speaker="AB"[i % 2]) for i in range(first, last)]
        latency = statistics.median(turn.latency for turn in turns)
        print(f"| {first + 1} to {last} | {latency:.4f} | {megabytes():.0f} | {analyzer.nbytes:,} |", flush=True)
    spent = sum(turn.latency for turn in analyzer.history)
    talk = sum(turn.processed_seconds for turn in analyzer.history)
    print(
        f"\n{analyzer.history[-1].end / 60:.1f} minutes of talk, of which {talk / 60:.1f} were processed, took "
        f"{spent:.1f} s: {talk / spent:.0f} times real time."
    )


if __name__ == "__main__":
    main()
