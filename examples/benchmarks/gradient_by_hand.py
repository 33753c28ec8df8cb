"""Forward and backward of a `TitansMemoryLayer` with the gradient of a chunk by hand, and by autograd.

    python examples/benchmarks/gradient_by_hand.py

Time in turn, in one process; what tensors hold at the peak, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import typer
from measuring import RESULTS, alternate, held_bytes, in_new_process, medians, print_table, ratio, save
from memory_engine import SHAPES, ours

from titans_mal.modeling import neural_memory


# Of the benchmark of the engine, and of `TitansMemoryConfig`.
MEMORIES = ({"depth": 2, "read": "chunk"}, {"depth": 1, "read": "history"})


def by_hand(shape: tuple[int, ...], memory: dict) -> Callable[[], object]:
    return ours(shape, backward=True, **memory)


def by_autograd(shape: tuple[int, ...], memory: dict) -> Callable[[], object]:
    run = by_hand(shape, memory)

    def with_plain_chunks():
        with mock.patch.object(neural_memory, "uses_manual_gradients", return_value=False):
            run()

    return with_plain_chunks


def held(build: Callable, *arguments) -> int:
    """The bytes that tensors hold at most."""
    torch.set_num_threads(1)
    return held_bytes(build(*arguments))


def main(
    repeats: Annotated[int, typer.Option(help="Number of rounds of each shape.")] = 9,
    shapes: Annotated[int, typer.Option(help="Number of shapes, from the smallest on.")] = len(SHAPES),
    output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS,
) -> None:
    """Time both in turn, and print a table."""
    rows = []
    for memory, shape in product(MEMORIES, SHAPES[:shapes]):
        arms = {"hand": by_hand(shape, memory), "autograd": by_autograd(shape, memory)}
        seconds = alternate(arms, repeats=repeats)
        needed = {build: in_new_process(held, build, shape, memory) / 1e6 for build in (by_hand, by_autograd)}
        rows.append({
            **memory,
            "shape": str(shape),
            "by hand, ms": medians(seconds)["hand"] * 1e3,
            "time over autograd's": ratio(seconds, "hand", "autograd"),
            "tensors, MB": needed[by_hand],
            "over autograd's": needed[by_hand] / needed[by_autograd],
        })  # fmt: skip
    print_table(rows)
    save("gradient_by_hand", rows, output)


if __name__ == "__main__":
    typer.run(main)
