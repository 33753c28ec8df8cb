"""The time of a training step whose frozen audio tower computes, and of one that reads what it computed before.

python examples/benchmarks/audio_cache.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import RESULTS, alternate, medians, print_table, ratio, save
from random_host import LINEAR, build, turns

from titans_mal.training import AudioTowerCache, choose_trained_parts


def measure(size: str, *, rows: int, tokens: int, seconds: float, device: str, folder: str, repeats: int) -> dict:
    """Medians of both arms, in turn, for one size of the host."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = build(size, tokens=tokens, device=device, dtype=dtype, chunk_size=64, **LINEAR)
    choose_trained_parts(model)
    inputs = shortened(turns(model, rows, tokens=tokens), model, int(seconds * tokens / 30))
    labels = torch.arange(rows, device=model.device) % 4
    cache = AudioTowerCache(model, folder)

    def step():
        model.zero_grad()
        ids = torch.zeros(rows, dtype=torch.long)
        model(**inputs, conversation_ids=ids, emotion_labels=labels, logits_to_keep=1, use_cache=False).loss.backward()

    def from_folder():
        with cache:
            step()

    times = alternate({"computed": step, "read": from_folder}, repeats=repeats)
    middle = medians(times)
    kept = sum(path.stat().st_size for path in cache.folder.iterdir())
    return {
        "host": size,
        "turns": rows,
        "seconds": seconds,
        "tower computes, ms": middle["computed"] * 1e3,
        "from the folder, ms": middle["read"] * 1e3,
        "ratio": ratio(times, "computed", "read"),
        "kB a turn": kept / rows / 1e3,
    }


def shortened(inputs: dict, model, tokens: int) -> dict:
    """Turns whose audio fills the first `tokens` audio tokens of the window, as most do."""
    ids = inputs["input_ids"]
    audio = (ids[0] == model.audio_token_id).nonzero().flatten()
    keep = torch.ones(ids.shape[1], dtype=torch.bool, device=ids.device)
    keep[audio[tokens:]] = False
    mask = inputs["feature_attention_mask"].clone()
    mask[:, 4 * tokens :] = 0
    return {
        **inputs,
        "input_ids": ids[:, keep],
        "attention_mask": inputs["attention_mask"][:, keep],
        "feature_attention_mask": mask,
    }


def main(
    sizes: Annotated[
        list[str] | None, typer.Option("--size", help="Size of the host: tiny, small, mid or 7b. May be repeated.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Number of turns of a step.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each turn, in seconds, in a window of 30 s.")] = 4.0,
    repeats: Annotated[int, typer.Option(help="Number of rounds.")] = 5,
    device: Annotated[str, typer.Option(help="Device, such as cpu or cuda.")] = "cuda"
    if torch.cuda.is_available()
    else "cpu",
    output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS,
) -> None:
    """Time steps of one window of turns, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        table = [
            measure(
                size, rows=rows, tokens=750, seconds=seconds, device=device, folder=f"{folder}/{size}", repeats=repeats
            )
            for size in sizes or ["tiny", "small", "mid"]
        ]
    print_table(table)
    save("audio_cache", table, output)


if __name__ == "__main__":
    typer.run(main)
