"""Configurations of the memory that differ from the chosen one in one respect: the log of the README.

    python examples/evidence/explore.py baseline

One seed and fewer steps than the evidence itself; differences are over the same 300 conversations, with intervals.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from features import CHOOSING, ENTRIES, MEMORY, RESULTS, is_right, train
from gap import Scores, difference, scored_turns
from models import WithMemory
from turn_features import draw_scripts, draw_turns
from variants import ActivatedKeys, Convolved, PlainValues, PooledWrite

from titans_mal.data.synthetic.suites import SUITES


CHOSEN = "as chosen"
TRIED = {
    CHOSEN: {},
    "depth 2": {"depth": 2},
    "depth 2, expansion 2": {"depth": 2, "expansion": 2},
    "1 head of 16": {"num_heads": 1},
    "1 head of 64": {"num_heads": 1, "head_dim": 64},
    "2 heads of 32": {"num_heads": 2, "head_dim": 32},
    "8 heads of 8": {"num_heads": 8, "head_dim": 8},
    "4 heads of 32": {"head_dim": 32},
    "8 heads of 16": {"num_heads": 8},
    "half-life 30 tokens": {"forget_half_life": 30.0},
    "half-life 2000 tokens": {"forget_half_life": 2000.0},
    "momentum 0.1": {"initial_momentum": 0.1},
    "momentum 0.9": {"initial_momentum": 0.9},
    "step 0.1": {"initial_step": 0.1},
    "step 0.9": {"initial_step": 0.9},
    "chunks of 4": {"chunk_size": 4},
    "chunks of 1": {"chunk_size": 1},
    "chunks of 4, read by chunk": {"chunk_size": 4, "read": "chunk"},
    "plain step (paper)": {"step_rule": "paper"},
    "plain step (paper), step 0.03": {"step_rule": "paper", "initial_step": 0.03},
    "given the speaker": {"scope": "speaker"},
    "a turn's mean written once": {"layer": PooledWrite},
    "SiLU on queries and keys": {"layer": ActivatedKeys},
    "convolution before keys and values": {"layer": Convolved},
    "values without a norm": {"layer": PlainValues},
}


def main(
    suite: Annotated[str, typer.Argument(help=f"Suite: {', '.join(SUITES)}.")],
    tried: Annotated[str, typer.Option(help="Configurations to try, separated by semicolons.")] = ";".join(TRIED),
    steps: Annotated[int, typer.Option(help="Number of steps of each training.")] = 300,
    conversations: Annotated[int, typer.Option(help="Number of test conversations.")] = 300,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = RESULTS / "explored",
) -> None:
    """Train each configuration once, and print a table, which includes earlier results of the same sizes."""
    names = [CHOSEN, *tried.split(";")]
    if suite not in SUITES or not set(names) <= set(TRIED):
        raise typer.BadParameter(f"Suites are {list(SUITES)}, and configurations {list(TRIED)}.")
    torch.set_num_threads(1)
    drawn, path = SUITES[suite](), output / f"{suite}-{conversations}-{steps}.json"
    output.mkdir(parents=True, exist_ok=True)
    scripts = draw_scripts(drawn, conversations, seed=(CHOOSING,))
    test = draw_turns(scripts, seed=(CHOOSING,))
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        if name == CHOSEN and name in found:
            continue
        began = time.perf_counter()
        torch.manual_seed(0)
        model = WithMemory(**MEMORY | TRIED[name])
        train(model, drawn, learning_rate=ENTRIES["memory"].learning_rate, steps=steps, seed=0)
        with torch.no_grad():
            right = is_right(model(test), test).tolist()
        found[name] = {"steps": steps, "right": right, "seconds": time.perf_counter() - began}
        path.write_text(json.dumps(found) + "\n")
    print(table({name: found[name] for name in TRIED if name in found}, scored_turns(scripts)[0]))


def table(found: dict[str, dict], conversations: np.ndarray) -> str:
    """A Markdown table of accuracies and of differences to the chosen configuration."""
    scores = {name: Scores(np.array([row["right"]]), conversations) for name, row in found.items()}
    lines = [
        "| changed | accuracy, % | points against the chosen (95 % interval) | s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, row in found.items():
        value, (low, high) = difference(scores[name], scores[CHOSEN])
        points = f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        lines.append(f"| {name} | {100 * scores[name].accuracy:.1f} | {points} | {row['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
