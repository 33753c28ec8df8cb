"""Time and memory of turn 1, 2, 4, ... 64 of a conversation, by how its history is kept.

memory: a `ConversationMemoryCache`. re-read: the audio of all turns in the prompt of each. cached: the same, with the
keys and values of earlier turns kept. none: each turn alone.

    python examples/benchmarks/conversation_cost.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, alternate, draw_lines, medians, print_table, ratio, save
from random_host import LINEAR, build, turns
from transformers import DynamicCache

from titans_mal import ConversationMemoryCache


def together(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One prompt of several turns."""
    along = {"input_ids": 1, "attention_mask": 1, "input_features": 0, "feature_attention_mask": 0}
    return {name: torch.cat([part[name] for part in parts], dim=dim) for name, dim in along.items()}


def shorten(past: DynamicCache, length: int) -> None:
    surplus = past.get_seq_length() - length
    if surplus:
        past.crop(-surplus)


def bytes_of(past: DynamicCache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in past.layers)


@torch.inference_mode()
def measure(model, upto: int, *, tokens: int, repeats: int) -> list[dict]:
    drawn = [turns(model, 1, tokens=tokens, seed=number) for number in range(upto)]
    cache = ConversationMemoryCache(model.config)
    with model.disable_memory():
        past = model(**drawn[0], use_cache=True).past_key_values
    shorten(past, 0)
    rows = []
    for number in range(1, upto + 1):
        turn = drawn[number - 1]
        if number & (number - 1) == 0:  # a power of two
            before, length = cache.snapshot(), past.get_seq_length()
            mask = torch.ones(1, length + turn["input_ids"].shape[1], dtype=torch.long, device=model.device)

            def with_memory(turn=turn, before=before):
                cache.restore(before)
                model(**turn, memory_cache=cache, logits_to_keep=1)

            def alone(turn=turn):
                with model.disable_memory():
                    model(**turn, logits_to_keep=1)

            def re_read(number=number):
                with model.disable_memory():
                    model(**together(drawn[:number]), logits_to_keep=1)

            def cached(turn=turn, length=length, mask=mask):
                shorten(past, length)
                with model.disable_memory():
                    model(**{**turn, "attention_mask": mask}, past_key_values=past, logits_to_keep=1)

            arms = {"memory": with_memory, "none": alone, "re-read": re_read, "cached": cached}
            middle = medians(alternate(arms, repeats=repeats))
            rows.append({"turn": number, **{f"{name}, ms": value * 1e3 for name, value in middle.items()},
                         "memory, kB": cache.nbytes / 1e3, "cached, kB": bytes_of(past) / 1e3})  # fmt: skip
            shorten(past, length)
            cache.restore(before)
        model(**turn, memory_cache=cache, logits_to_keep=1)
        mask = torch.ones(1, past.get_seq_length() + turn["input_ids"].shape[1], dtype=torch.long, device=model.device)
        with model.disable_memory():
            model(**{**turn, "attention_mask": mask}, past_key_values=past, logits_to_keep=1)
    return rows


@torch.inference_mode()
def late_over_early(model, early: int, late: int, *, tokens: int, repeats: int) -> float:
    """The time of turn `late` over that of turn `early` of a streamed conversation, in one run, in turn."""
    caches = {}
    cache = ConversationMemoryCache(model.config)
    for number in range(1, late + 1):
        if number in (early, late):
            caches[number] = cache.snapshot()
        model(**turns(model, 1, tokens=tokens, seed=number), memory_cache=cache)
    turn = turns(model, 1, tokens=tokens, seed=0)
    seconds = alternate(
        {str(number): lambda c=c: model(**turn, memory_cache=c.snapshot()) for number, c in caches.items()},
        repeats=repeats,
    )
    return ratio(seconds, str(late), str(early))


def main(
    size: Annotated[str, typer.Option(help="Size of the host: tiny, small, mid or 7b.")] = "small",
    upto: Annotated[int, typer.Option(help="Number of turns of the conversation.")] = 64,
    tokens: Annotated[int, typer.Option(help="Number of audio tokens of a turn; 25 tokens are one second.")] = 75,
    repeats: Annotated[int, typer.Option(help="Number of rounds.")] = 7,
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cuda"
    if torch.cuda.is_available()
    else "cpu",
    output: Annotated[Path, typer.Option(help="Folder for the JSON file and the picture.")] = RESULTS,
) -> None:
    """Time the turns of one conversation, and print a table."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = build(size, tokens=tokens, device=device, dtype=dtype, chunk_size=64, **LINEAR)
    rows = measure(model, upto, tokens=tokens, repeats=repeats)
    print_table(rows)
    slope = late_over_early(model, 2, upto, tokens=tokens, repeats=5 * repeats)
    print(f"turn {upto} over turn 2 with memory: {slope:.3f}x in time, "
          f"{rows[-1]['memory, kB'] / rows[1]['memory, kB']:.3f}x in bytes")  # fmt: skip
    save("conversation_cost", rows, output, size=size, tokens=tokens, late_over_early=slope)
    numbers = [row["turn"] for row in rows]
    names = ("memory", "none", "re-read", "cached")
    lines = {name: (numbers, [row[f"{name}, ms"] for row in rows]) for name in names}
    draw_lines("conversation_cost", lines, output, x="turn of the conversation", y="ms")


if __name__ == "__main__":
    typer.run(main)
