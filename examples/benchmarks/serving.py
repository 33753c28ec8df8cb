"""One turn each of many conversations at once: `stack` their states, one call, `split` them; against one by one.

python examples/benchmarks/serving.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, alternate, draw_lines, medians, print_table, save
from random_host import LINEAR, build, turns

from titans_mal import ConversationMemoryCache


@torch.inference_mode()
def measure(model, conversations: int, *, tokens: int, repeats: int, most: int) -> dict:
    inputs = turns(model, conversations, tokens=tokens)
    caches = [ConversationMemoryCache(model.config) for _ in range(conversations)]
    batches = [slice(first, min(first + most, conversations)) for first in range(0, conversations, most)]

    def together():
        for rows in batches:
            stacked = ConversationMemoryCache.stack(caches[rows])
            model(**{name: tensor[rows] for name, tensor in inputs.items()}, memory_cache=stacked, logits_to_keep=1)
            caches[rows] = stacked.split()

    def one_by_one():
        for row in range(conversations):
            turn = {name: tensor[[row]] for name, tensor in inputs.items()}
            model(**turn, memory_cache=caches[row], logits_to_keep=1)

    middle = medians(alternate({"together": together, "one by one": one_by_one}, repeats=repeats))
    return {
        "conversations": conversations,
        **{f"{name}, turns/s": conversations / seconds for name, seconds in middle.items()},
        "gain": middle["one by one"] / middle["together"],
        "state, kB": caches[0].nbytes / 1e3,
    }


def main(
    size: Annotated[str, typer.Option(help="Size of the host: tiny, small, mid or 7b.")] = "tiny",
    tokens: Annotated[int, typer.Option(help="Number of audio tokens of a turn.")] = 50,
    repeats: Annotated[int, typer.Option(help="Number of rounds.")] = 5,
    most: Annotated[int, typer.Option(help="Maximal number of turns in one call.")] = 64,
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cuda"
    if torch.cuda.is_available()
    else "cpu",
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")] = RESULTS,
) -> None:
    """Time 1, 8, 64 and 256 conversations, and print a table."""
    model = build(size, tokens=tokens, device=device, chunk_size=32, **LINEAR | {"head_dim": 32})
    rows = [measure(model, n, tokens=tokens, repeats=repeats, most=most) for n in (1, 8, 64, 256)]
    print_table(rows)
    save("serving", rows, output, size=size, tokens=tokens, most=most)
    counts = [row["conversations"] for row in rows]
    lines = {name: (counts, [row[f"{name}, turns/s"] for row in rows]) for name in ("together", "one by one")}
    draw_lines("serving", lines, output, x="conversations", y="turns a second")


if __name__ == "__main__":
    typer.run(main)
