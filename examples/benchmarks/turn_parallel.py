"""A conversation in one batched call against one call a turn, forward and backward, as in training.

python examples/benchmarks/turn_parallel.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, alternate, draw_bars, medians, print_table, ratio, save
from random_host import LINEAR, build, turns

from titans_mal import ConversationMemoryCache


def measure(size: str, *, conversations: int, length: int, tokens: int, device: str, repeats: int) -> dict:
    model = build(size, tokens=tokens, device=device, chunk_size=64, **LINEAR)
    model.requires_grad_(False)
    model.titans_memory.requires_grad_(True)
    model.train()
    inputs = turns(model, conversations * length, tokens=tokens)
    # Turn by turn: the first turns of all conversations, then the second ones, ...
    ids = torch.arange(conversations).repeat(length)
    labels = torch.arange(len(ids)) % 4

    def parallel():
        model(**inputs, conversation_ids=ids, emotion_labels=labels, logits_to_keep=1, use_cache=False).loss.backward()

    def streaming():
        cache, loss = ConversationMemoryCache(model.config, batch_size=conversations), 0.0
        for turn in range(length):
            rows = slice(turn * conversations, (turn + 1) * conversations)
            batch = {name: tensor[rows] for name, tensor in inputs.items()}
            loss = (
                loss
                + model(
                    **batch, memory_cache=cache, emotion_labels=labels[rows], logits_to_keep=1, use_cache=False
                ).loss
            )
        (loss / length).backward()

    seconds = alternate({"turn-parallel": parallel, "streaming": streaming}, repeats=repeats)
    middle = medians(seconds)
    return {
        "host": size,
        "conversations": conversations,
        "turns": length,
        "audio tokens": tokens,
        **{f"{name}, ms": value * 1e3 for name, value in middle.items()},
        "streaming over turn-parallel": ratio(seconds, "streaming", "turn-parallel"),
    }


def main(
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Size of the host: tiny, small, mid or 7b. May be repeated.")
    ] = None,
    length: Annotated[int, typer.Option(help="Number of turns of a conversation.")] = 16,
    tokens: Annotated[int, typer.Option(help="Number of audio tokens of a turn.")] = 50,
    repeats: Annotated[int, typer.Option(help="Number of rounds.")] = 7,
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cuda"
    if torch.cuda.is_available()
    else "cpu",
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")] = RESULTS,
) -> None:
    """Time a training step of 16-turn conversations in both ways, and print a table."""
    rows = []
    for size in sizes or ["tiny", "small", "mid"]:
        for conversations in (1, 4) if size != "mid" else (1,):
            rounds = repeats if size != "mid" else 3
            rows.append(measure(size, conversations=conversations, length=length, tokens=tokens, device=device,
                                repeats=rounds))  # fmt: skip
            print_table(rows[-1:])
    print()
    print_table(rows)
    save("turn_parallel", rows, output)
    labelled = [{**row, "label": f"{row['host']}\n{row['conversations']} conversations"} for row in rows]
    draw_bars("turn_parallel", labelled, output, label="label", columns=["streaming over turn-parallel"], y="times")


if __name__ == "__main__":
    typer.run(main)
