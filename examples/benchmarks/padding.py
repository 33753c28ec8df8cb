"""How far a turn's probabilities depend on the other turns of its batch, for every host with tiny random weights.

Each turn is scored alone and in a batch of ragged lengths, with the host's own processor: once without and once with
turns of one length being processed on their own. Run in a clone, since the tiny hosts are those of the tests:

    python examples/benchmarks/padding.py
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import torch
import typer
from measuring import RESULTS, print_table, save
from transformers.utils import logging

from titans_mal.modeling import turns_by_length


# After the package, since the tests have a folder of its name.
sys.path.append(str(Path(__file__).parents[2] / "tests"))

from common_host_tester import deterministic
from tiny_processors import PROCESSORS, model_for


RATE = 16_000
SECONDS = (0.53, 0.9, 0.917, 1.3, 1.77, 2.5)


def voices() -> list[np.ndarray]:
    """Turns of noise, (samples,) float32."""
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, round(seconds * RATE)).astype(np.float32) for seconds in SECONDS]


def ungrouped(lengths: Sequence[int]) -> dict[int, list[int]]:
    """All rows as if they were as long as the longest: how a host processes them by itself."""
    return {max(lengths): [*range(len(lengths))]}


@torch.no_grad()
def difference(name: str, processor, *, grouped: bool, training: bool = False) -> float:
    """The largest difference of a probability between a turn alone and the same turn in a batch."""
    model = model_for(name, processor)
    if training:
        # Without dropout, whose draws differ from call to call.
        deterministic(model.requires_grad_(False).train())

    def probabilities(turns: list[np.ndarray]) -> torch.Tensor:
        inputs, _ = model.turn_inputs(processor, turns)
        return model(**inputs, logits_to_keep=1).emotion_logits.softmax(-1)

    turns = voices()
    groups = contextlib.nullcontext() if grouped else mock.patch.object(turns_by_length, "rows_by_length", ungrouped)
    with groups:
        return float((torch.cat([probabilities([turn]) for turn in turns]) - probabilities(turns)).abs().max())


def main(output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS) -> None:
    """Measure every host, and print a table."""
    logging.set_verbosity_error()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, build in PROCESSORS.items():
            processor = build(Path(folder))
            rows.append({
                "host": name,
                "before": difference(name, processor, grouped=False),
                "after": difference(name, processor, grouped=True),
                "in training, before": difference(name, processor, grouped=False, training=True),
                "in training, after": difference(name, processor, grouped=True, training=True),
            })  # fmt: skip
    print_table(rows)
    save("padding", rows, output, seconds=SECONDS)


if __name__ == "__main__":
    typer.run(main)
