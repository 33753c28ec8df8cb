"""A `TitansMemoryLayer` against the `NeuralMemory` of titans-pytorch on the same work.

Both take (batch, tokens, model dim), project it to keys, values and queries, write it chunk by chunk with momentum
and forgetting, read every chunk, and project back. Dims, heads, tokens, chunk, depth (2) and expansion (1) are equal,
and no forget gate is near one. titans-pytorch runs in two settings: with weights that are renewed at each chunk, as
ours are (`batch_size=chunk_size`), and by its default, in which all chunks take their gradients at the first weights:
less work, and another memory.

    pip install titans-pytorch==0.5.5
    python examples/benchmarks/memory_engine.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import (
    RESULTS,
    alternate,
    draw_bars,
    held_bytes,
    in_new_process,
    matrix_rate,
    medians,
    peak_bytes,
    print_table,
    ratio,
    resident_bytes,
    save,
)

from titans_mal import TitansMemoryConfig, TitansMemoryLayer


# (batch, tokens, model dim, heads, head dim, chunk)
SHAPES = (
    (1, 128, 256, 4, 64, 64),
    (8, 128, 256, 4, 64, 64),
    (8, 128, 256, 4, 64, 16),
    (1, 1024, 256, 4, 64, 64),
    (4, 512, 512, 1, 512, 64),
    (16, 750, 1024, 4, 128, 64),
)
THEIRS = ("theirs, renewed", "theirs, default")


def ours(
    shape: tuple[int, ...], *, backward: bool, ragged: bool = False, depth: int = 2, read: str = "chunk"
) -> Callable[[], object]:
    batch, tokens, dim, heads, head_dim, chunk = shape
    torch.manual_seed(0)
    config = TitansMemoryConfig(
        num_heads=heads, head_dim=head_dim, depth=depth, chunk_size=chunk, read=read, feature_map="identity",
        step_bound="token",
    )  # fmt: skip
    layer = TitansMemoryLayer(config, dim)
    with torch.no_grad():
        for weight in layer.initial_memory:
            weight.normal_(std=head_dim**-0.5)
        layer.write_gates.bias.fill_(-3.0)
    hidden_states = torch.randn(batch, tokens, dim)
    # Rows of half to full length.
    lengths = torch.linspace(tokens // 2, tokens, batch).long() if ragged else None

    def run():
        with torch.set_grad_enabled(backward):
            output = layer(hidden_states, layer.initial_state(batch), lengths=lengths)
            if backward:
                output.residual.sum().backward()

    return run


def theirs(shape: tuple[int, ...], *, backward: bool, renewed: bool) -> Callable[[], object]:
    from titans_pytorch import NeuralMemory
    from titans_pytorch.memory_models import MemoryMLP

    batch, tokens, dim, heads, head_dim, chunk = shape
    torch.manual_seed(0)
    memory = NeuralMemory(
        dim=dim, chunk_size=chunk, batch_size=chunk if renewed else None, dim_head=head_dim, heads=heads,
        model=MemoryMLP(head_dim, depth=2, expansion_factor=1.0), momentum=True, init_decay_bias=-3.0,
    )  # fmt: skip
    sequence = torch.randn(batch, tokens, dim)

    def run():
        with torch.set_grad_enabled(backward):
            retrieved, _ = memory(sequence)
            if backward:
                retrieved.sum().backward()

    return run


def arms(shape: tuple[int, ...], *, backward: bool) -> dict[str, Callable[[], object]]:
    return {
        "ours": ours(shape, backward=backward),
        "ours, ragged": ours(shape, backward=backward, ragged=True),
        "theirs, renewed": theirs(shape, backward=backward, renewed=True),
        "theirs, default": theirs(shape, backward=backward, renewed=False),
    }


def flops(shape: tuple[int, ...], *, backward: bool) -> float:
    """Useful floating-point operations of our layer's matrix products.

    Five projections (query, key, value, read gate, output). For each token and head: two products each to read and to
    write, one to go back through the second matrix, and the sums for weights and momentum of both matrices:
    2 d^2 (2 + 2 + 1 + 4); two more for the surprise, which the first chunk gives anyway. The backward pass of a
    product is two of its size; the surprise has none.
    """
    batch, tokens, dim, heads, head_dim, chunk = shape
    product = heads * 2 * head_dim**2
    forward = batch * tokens * (5 * 2 * dim * heads * head_dim + 9 * product)
    surprise = batch * (tokens - chunk) * 2 * product
    return (3 if backward else 1) * forward + surprise


def resident_peak(shape: tuple[int, ...], name: str) -> int:
    """The bytes that the process holds at most in forward and backward, beyond what it held before."""
    torch.set_num_threads(1)
    run = arms(shape, backward=True)[name]
    before = resident_bytes()
    run()
    return peak_bytes() - before


def held_peak(shape: tuple[int, ...], name: str) -> int:
    """The bytes that tensors hold at most in forward and backward, beyond what they held before."""
    torch.set_num_threads(1)
    return held_bytes(arms(shape, backward=True)[name])


def peaks(shape: tuple[int, ...]) -> dict[str, float]:
    """Megabytes of ours, and of the setting of titans-pytorch that needs less, each in a process of its own."""
    columns = {}
    for column, measure in (("peak", resident_peak), ("tensors", held_peak)):
        columns[f"{column}, MB"] = in_new_process(measure, shape, "ours") / 1e6
        columns[f"{column} of the leaner, MB"] = min(in_new_process(measure, shape, name) for name in THEIRS) / 1e6
    return columns


def main(
    repeats: Annotated[int, typer.Option(help="Number of rounds of each shape; the largest shapes get fewer.")] = 15,
    threads: Annotated[int, typer.Option(help="Number of threads of torch; 0 is its default.")] = 0,
    device: Annotated[str, typer.Option(help="Device; peak memory is measured on a CPU only.")] = (
        "cuda" if torch.cuda.is_available() else "cpu"
    ),
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")] = RESULTS,
) -> None:
    """Time forward, and forward with backward, of six shapes, and print a table."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_default_device(device)
    rows = []
    for shape in SHAPES:
        for backward in (False, True):
            rounds = max(3, repeats // 4) if math.prod(shape[:3]) > 4_000_000 else repeats
            seconds = alternate(arms(shape, backward=backward), repeats=rounds)
            rate, middle = matrix_rate(device), medians(seconds)
            faster = min(THEIRS, key=middle.get)
            useful = flops(shape, backward=backward)
            rows.append({
                "shape": str(shape),
                "pass": "forward + backward" if backward else "forward",
                "ours, ms": middle["ours"] * 1e3,
                "ragged, ms": middle["ours, ragged"] * 1e3,
                "renewed, ms": middle["theirs, renewed"] * 1e3,
                "default, ms": middle["theirs, default"] * 1e3,
                "over renewed": ratio(seconds, "theirs, renewed", "ours"),
                "over the faster": ratio(seconds, faster, "ours"),
                "at full rate": middle[faster] * rate / useful,
                "share of rate": useful / middle["ours"] / rate,
                "GFLOP/s of a product": rate / 1e9,
                **(peaks(shape) if backward and device == "cpu" else {}),
            })  # fmt: skip
            print_table(rows[-1:])
    print()
    for name in ("forward", "forward + backward"):
        print_table([row for row in rows if row["pass"] == name])
    for column in ("over renewed", "over the faster", "at full rate"):
        for name in ("forward", "forward + backward"):
            values = [row[column] for row in rows if row["pass"] == name]
            print(f"{name}, {column}: geometric mean {math.prod(values) ** (1 / len(values)):.2f}, "
                  f"least {min(values):.2f}")  # fmt: skip
    save("memory_engine", rows, output, device=device)
    both = [{**row, "name": row["shape"] + ("\n" + row["pass"])} for row in rows]
    draw_bars("memory_engine", both, output, label="name", columns=["over renewed", "over the faster"],
              y="time of titans-pytorch over ours")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
