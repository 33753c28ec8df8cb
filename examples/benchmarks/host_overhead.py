"""The time that the memory adds to a host's prefill and to each decoded token.

Three memory layers of 4 heads of 64, chunk 64, on a turn of 750 audio tokens (30 s), against the same model within
`disable_memory()`, which is exactly its host.

    python examples/benchmarks/host_overhead.py                 # 300 M parameters, on the CPU
    python examples/benchmarks/host_overhead.py --size 7b       # the shape of Qwen2-Audio-7B in bf16, on a GPU
"""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, alternate, draw_bars, medians, print_table, ratio, save, synchronize
from random_host import LINEAR, build, turns

from titans_mal import ConversationMemoryCache


TOKENS = 750


class Clock:
    """A streamer of `generate` that notes when each token came."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value) -> None:
        synchronize()
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass

    def per_token(self) -> float:
        # The first two are the prompt and what came of the prefill.
        return statistics.median(b - a for a, b in zip(self.times[1:], self.times[2:]))


@torch.inference_mode()
def measure(model, batch: int, *, repeats: int, decoded: int) -> dict:
    inputs = turns(model, batch, tokens=TOKENS)
    cache = ConversationMemoryCache(model.config, batch_size=batch)
    per_token: dict[str, list[float]] = {"host": [], "memory": []}

    def prefill(memory: bool):
        with contextlib.nullcontext() if memory else model.disable_memory():
            model(**inputs, memory_cache=cache, logits_to_keep=1)

    def decode(memory: bool):
        clock = Clock()
        # A streamer follows one row.
        row = {name: tensor[:1] for name, tensor in inputs.items()}
        own = {"memory_cache": ConversationMemoryCache(model.config)} if memory else {}
        with contextlib.nullcontext() if memory else model.disable_memory():
            model.generate(**row, **own, max_new_tokens=decoded, do_sample=False, streamer=clock)
        per_token["memory" if memory else "host"].append(clock.per_token())

    seconds = alternate({"host": lambda: prefill(False), "memory": lambda: prefill(True)}, repeats=repeats)
    alternate({"host": lambda: decode(False), "memory": lambda: decode(True)}, repeats=repeats)
    middle, tokens = medians(seconds), medians(per_token)
    return {
        "batch": batch,
        "host prefill, ms": middle["host"] * 1e3,
        "prefill overhead, %": (ratio(seconds, "memory", "host") - 1) * 100,
        "host token, ms": tokens["host"] * 1e3,
        "token overhead, %": (ratio(per_token, "memory", "host") - 1) * 100,
    }


def main(
    size: Annotated[str, typer.Option(help="Size of the host: tiny, small, mid (300 M parameters) or 7b.")] = "mid",
    batches: Annotated[
        list[int] | None, typer.Option("--batch", help="Number of turns in a batch. May be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Number of rounds.")] = 9,
    decoded: Annotated[int, typer.Option(help="Number of tokens decoded in each round.")] = 24,
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cuda"
    if torch.cuda.is_available()
    else "cpu",
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")] = RESULTS,
) -> None:
    """Time the host with memory and without, and print a table."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = build(size, tokens=TOKENS, device=device, dtype=dtype, chunk_size=64, **LINEAR)
    memory = sum(parameter.numel() for parameter in model.titans_memory.parameters())
    print(f"{model.num_parameters() - memory:,} parameters of the host, {memory:,} of memory; {device}, {dtype}")
    rows = [measure(model, batch, repeats=repeats, decoded=decoded) for batch in batches or [1]]
    print_table(rows)
    name = f"host_overhead_{size}"
    save(name, rows, output, size=size, device=device, dtype=str(dtype))
    columns = ["prefill overhead, %", "token overhead, %"]
    draw_bars(name, [{**row, "label": f"batch {row['batch']}"} for row in rows], output, label="label",
              columns=columns, y="% over the host")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
