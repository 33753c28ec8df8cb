"""Ten thousand turns, over a million audio tokens, through one cache: what stays finite, bounded and flat.

Ordinary turns alternate with loud ones (hidden states times 100), silent ones (zeros, and near zero), constant ones
(all tokens equal) and adversarial ones (one-hot states; one token repeated with its sign changing). The memory layer
has random weights and gates that write hard, as a bad training could leave them.

    python examples/benchmarks/stability.py
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, draw_lines, print_table, resident_bytes, save
from random_host import build

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.memory_state import norm_bound


def turn(kind: str, tokens: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(1, tokens, width) hidden states."""
    states = torch.randn(1, tokens, width, generator=generator)
    if kind == "loud":
        return 100 * states
    if kind == "silent":
        return torch.zeros_like(states)
    if kind == "near silent":
        return 1e-20 * states
    if kind == "constant":
        return states[:, :1].expand(-1, tokens, -1)
    if kind == "one-hot":
        return 100 * torch.nn.functional.one_hot(torch.arange(tokens) % width, width).float()[None]
    if kind == "changing sign":
        return states[:, :1] * (1 - 2 * (torch.arange(tokens) % 2))[None, :, None]
    return states


KINDS = ("ordinary", "loud", "silent", "ordinary", "near silent", "constant", "one-hot", "changing sign")


@torch.inference_mode()
def stream(turns: int, tokens: int, *, every: int, **memory) -> list[dict]:
    """One row for every `every` turns: time, resident memory, and the largest norm over its bound so far."""
    model = build("tiny", tokens=tokens, **{"chunk_size": 16} | memory)
    layer, width = model.titans_memory.layers[0], model.config.get_text_config().hidden_size
    layer.write_gates.weight.normal_(std=0.3)
    layer.write_gates.bias.copy_(torch.tensor([-9.0, 3.0, 3.0]).repeat_interleave(4))  # forget little, step far
    cache = ConversationMemoryCache(model.config)
    generator = torch.Generator().manual_seed(0)
    rows, largest, surprise, began = [], 0.0, 0.0, time.perf_counter()
    for number in range(turns):
        kind = KINDS[number % len(KINDS)]
        state = cache.read(0, torch.tensor([0]), layer.initial_state(1))
        output = layer(turn(kind, tokens, width, generator), state)
        cache.update(output.state, 0)
        cache.turns += 1
        if not all(tensor.isfinite().all() for tensor in output.state.tensors):
            raise ArithmeticError(f"Turn {number} ({kind}): the state is not finite.")
        if not output.residual.isfinite().all():
            raise ArithmeticError(f"Turn {number} ({kind}): the residual is not finite.")
        norms = [float(matrix.norm(dim=(-2, -1)).max()) / norm_bound(matrix) for matrix in output.state.weights]
        largest, surprise = max(largest, *norms), surprise + float(output.surprise)
        if (number + 1) % every == 0:
            seconds = time.perf_counter() - began
            rows.append({
                "turns": number + 1,
                "audio tokens": (number + 1) * tokens,
                "ms a turn": seconds / every * 1e3,
                "resident, MB": resident_bytes() / 1e6,
                "largest norm / bound": largest,
                "mean surprise": surprise / every,
            })  # fmt: skip
            surprise, began = 0.0, time.perf_counter()
    return rows


def main(
    turns: Annotated[int, typer.Option(help="Number of turns.")] = 10_000,
    tokens: Annotated[int, typer.Option(help="Number of audio tokens of each turn.")] = 104,
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")] = RESULTS,
) -> None:
    """Stream the turns, and print a table; it fails where a number is not finite."""
    rows = stream(turns, tokens, every=max(1, turns // 10))
    print_table(rows)
    save("stability", rows, output, tokens=tokens)
    numbers = [row["turns"] for row in rows]
    names = ("ms a turn", "largest norm / bound", "mean surprise")
    draw_lines(
        "stability", {n: (numbers, [row[n] for row in rows]) for n in names}, output, x="turns", y="", log=False
    )


if __name__ == "__main__":
    typer.run(main)
