"""Configurations of the memory that differ from the chosen one, through the tiny host: the log of AUDIO.md.

    python examples/evidence/explore_audio.py baseline

As `explore.py`, for what needs a host: where the memory is attached, and where its keys come from.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from audio import CHOOSING, RESULTS, SPOKEN, TRAINING
from audio_models import memory_logits, train_memory
from explore import CHOSEN, table
from gap import scored_turns
from spoken_suites import encode_suite, load_host
from variants import ActivatedKeys, InputKeys, PooledWrite

from titans_mal.data.synthetic.suites import SUITES
from titans_mal.modeling.memory_injection import decoder_blocks


TRIED = {
    CHOSEN: {},
    "after block 0 alone": {"layers": [0]},
    "after block 1 alone": {"layers": [1]},
    "after block 2 alone": {"layers": [2]},
    "after blocks 1 and 2": {"layers": [1, 2]},
    "keys and values from the block's input": {"layer": InputKeys},
    "depth 2": {"depth": 2},
    "8 heads of 16": {"num_heads": 8, "head_dim": 16},
    "2 heads of 64": {"num_heads": 2, "head_dim": 64},
    "chunks of 8": {"chunk_size": 8},
    "half-life 200 tokens": {"forget_half_life": 200.0},
    "step 0.1": {"initial_step": 0.1},
    "given the speaker": {"scope": "speaker"},
    "a turn's mean written once": {"layer": PooledWrite},
    "SiLU on queries and keys": {"layer": ActivatedKeys},
}


def with_memory(*, layer: type | None = None, **memory):
    """The frozen host with a fresh memory, whose layers are those of a variant where one is given."""
    model, _ = load_host(**memory)
    for index, fresh in enumerate(model.titans_memory.layers if layer else []):
        variant = layer(fresh.config, fresh.output_proj.out_features)
        variant.load_state_dict(fresh.state_dict())
        model.titans_memory.layers[index] = variant
        if layer is InputKeys:
            variant.watch(decoder_blocks(model)[fresh.config.layers[index]])
    return model


def main(
    suite: Annotated[str, typer.Argument(help=f"Suite: {', '.join(SPOKEN)}.")],
    tried: Annotated[str, typer.Option(help="Configurations to try, separated by semicolons.")] = ";".join(TRIED),
    steps: Annotated[int, typer.Option(help="Number of steps of each training.")] = 250,
    conversations: Annotated[int, typer.Option(help="Number of training conversations.")] = 600,
    test_conversations: Annotated[int, typer.Option(help="Number of test conversations.")] = 200,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = RESULTS / "explored",
) -> None:
    """Train each configuration once, and print a table, which includes earlier results of the same sizes."""
    names = [CHOSEN, *tried.split(";")]
    if suite not in SPOKEN or not set(names) <= set(TRIED):
        raise typer.BadParameter(f"Suites are {SPOKEN}, and configurations {list(TRIED)}.")
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{suite}-{conversations}-{test_conversations}-{steps}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    host, processor = load_host()
    _, train = encode_suite(host, processor, SUITES[suite](), conversations, TRAINING)
    scripts, test = encode_suite(host, processor, SUITES[suite](), test_conversations, CHOOSING)
    for name in names:
        if name in found:
            continue
        began = time.perf_counter()
        model = with_memory(**TRIED[name])
        train_memory(model, train, steps=steps, seed=0)
        right = (memory_logits(model, test).argmax(-1) == test.labels)[test.labels >= 0]
        found[name] = {"right": right.tolist(), "seconds": time.perf_counter() - began}
        path.write_text(json.dumps(found) + "\n")
    print(table({name: found[name] for name in TRIED if name in found}, scored_turns(scripts)[0]))


if __name__ == "__main__":
    typer.run(main)
