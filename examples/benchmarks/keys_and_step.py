"""Cost of the keys and of the step's bound: time of a `TitansMemoryLayer`, and size of its state.

    python examples/benchmarks/keys_and_step.py

What they gain is in `examples/evidence`. Times are ratios to the first row, round by round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, alternate, medians, print_table, ratio, save

from titans_mal import TitansMemoryConfig
from titans_mal.modeling.titans_memory_layer import TitansMemory


LINEAR = {"feature_map": "identity", "step_bound": "token"}
MEMORIES = {
    "heads of 16, linear keys, largest token": {"head_dim": 16, **LINEAR},
    "heads of 16, linear keys, Gram matrix": {"head_dim": 16, **LINEAR, "step_bound": "gram"},
    "heads of 16, quadratic keys, largest token": {"head_dim": 16, **LINEAR, "feature_map": "quadratic"},
    "heads of 16, quadratic keys, Gram matrix (default)": {},
    "heads of 48, linear keys, largest token": {"head_dim": 48, **LINEAR},
    "heads of 64, linear keys, largest token": {"head_dim": 64, **LINEAR},
}
HIDDEN_SIZE = 2048


def arm(memory: dict, *, rows: int, tokens: int, backward: bool) -> Callable[[], object]:
    """A turn of each of some conversations, read and written."""
    torch.manual_seed(0)
    layer = TitansMemory(TitansMemoryConfig(**memory), HIDDEN_SIZE).layers[0]
    states = torch.randn(rows, tokens, HIDDEN_SIZE)

    def run() -> None:
        with torch.set_grad_enabled(backward):
            output = layer(states, layer.initial_state(rows))
            if backward:
                loss = output.residual.square().sum() + output.state.weights[0].square().sum()
                torch.autograd.grad(loss, list(layer.parameters()), allow_unused=True)

    return run


def main(
    repeats: Annotated[int, typer.Option(help="Number of rounds of each row.")] = 15,
    rows: Annotated[int, typer.Option(help="Number of conversations in a call.")] = 4,
    tokens: Annotated[int, typer.Option(help="Number of audio tokens of a turn.")] = 256,
    output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS,
) -> None:
    """Time all in turn, and print a table."""
    first = next(iter(MEMORIES))
    seconds = {
        backward: alternate(
            {name: arm(memory, rows=rows, tokens=tokens, backward=backward) for name, memory in MEMORIES.items()},
            repeats=repeats,
        )
        for backward in (False, True)
    }
    found = []
    for name, memory in MEMORIES.items():
        shapes = TitansMemoryConfig(**memory).state_shapes(0, HIDDEN_SIZE)
        found.append({
            "memory": name,
            "state of a layer, kB": 2 * 4 * sum(map(math.prod, shapes)) / 1e3,
            "forward, ms": medians(seconds[False])[name] * 1e3,
            "over the first": ratio(seconds[False], name, first),
            "forward and backward, ms": medians(seconds[True])[name] * 1e3,
            "over the first ": ratio(seconds[True], name, first),
        })  # fmt: skip
    print_table(found)
    save("keys_and_step", found, output)


if __name__ == "__main__":
    typer.run(main)
