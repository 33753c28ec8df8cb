"""The feature form of the evidence: scripted turns as feature vectors, through the memory layer alone.

    python examples/evidence/features.py baseline
    python examples/evidence/features.py all

Each model is trained on fresh conversations of the suite and tested on the same 300 others.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from baselines import PromptHistory, SpeakerNormalised, TemporaryLora
from gap import Row, Scores, bound_scores, difference, draw_gaps, gap_closed, gap_table, scored_turns
from models import UtteranceOnly, WithMemory
from optimisation import CosineAdamW
from torch import Tensor, nn
from torch.nn import functional as F
from turn_features import Turns, draw_scripts, draw_turns

from titans_mal.data.synthetic.suites import SUITES, Script, Suite


RESULTS = Path(__file__).parent / "results" / "features"
# The share of the gap that the memory should close; null has no gap, and emotional-start no target.
TO_REACH = {"baseline": 0.6, "interleaved": 0.5, "carry-over": 0.5, "delayed-binding": 0.4}
# Chosen by the log in the README.
LINEAR = {"feature_map": "identity", "step_bound": "token"}
MEMORY = {"num_heads": 4, "head_dim": 16, "depth": 1, "forget_half_life": 300.0, **LINEAR}
CONVERSATIONS = 32
# First numbers of the seeds of training, choosing and test.
TRAINING, CHOOSING, TEST = 1, 2, 3


@dataclass(frozen=True)
class Entry:
    """A model: its title in the table, how it is made and trained, whether it has one seed only, or is extra."""

    title: str
    make: Callable[[], nn.Module]
    learning_rate: float = 1e-2
    is_slow: bool = False
    is_optional: bool = False


ENTRIES = {
    "utterance": Entry("utterance only", UtteranceOnly),
    "memory": Entry("memory (linear fast weights, depth 1)", lambda: WithMemory(**MEMORY)),
    "wide": Entry(
        "memory with heads of 48, as large a state as quadratic keys",
        lambda: WithMemory(**MEMORY | {"head_dim": 48}),
        is_optional=True,
    ),
    "gram": Entry(
        "memory, step by the Gram matrix", lambda: WithMemory(**MEMORY | {"step_bound": "gram"}), is_optional=True
    ),
    "quadratic": Entry(
        "memory, quadratic keys", lambda: WithMemory(**MEMORY | {"feature_map": "quadratic"}), is_optional=True
    ),
    "quadratic-gram": Entry(
        "memory, quadratic keys, step by the Gram matrix",
        lambda: WithMemory(**MEMORY | {"feature_map": "quadratic", "step_bound": "gram"}),
        is_optional=True,
    ),
    "deep": Entry("memory of depth 2", lambda: WithMemory(**MEMORY | {"depth": 2}), is_slow=True),
    "speaker-memory": Entry(
        "memory of each speaker (given the speaker)", lambda: WithMemory(**MEMORY, scope="speaker"), is_slow=True
    ),
    "never-written": Entry("learned memory, never written", lambda: WithMemory(**MEMORY, write=False), is_slow=True),
    "normalised": Entry("z-normalised by speaker (given the speaker)", SpeakerNormalised),
    "lora": Entry("temporary LoRA", TemporaryLora),
    "prompt-2": Entry("2 turns in the prompt", lambda: PromptHistory(turns=2), 3e-3, is_slow=True),
    "prompt-4": Entry("4 turns in the prompt", lambda: PromptHistory(turns=4), 3e-3, is_slow=True),
    "prompt-8": Entry("8 turns in the prompt", lambda: PromptHistory(turns=8), 3e-3, is_slow=True),
}
# Memories that are also tested with a reset before every turn, and the names of these results.
RESETS = {"memory": "reset", "quadratic-gram": "quadratic-gram-reset"}
# Memories that are compared with each other.
COMPARED = (
    *((name, "memory") for name in ("wide", "gram", "quadratic", "quadratic-gram")),
    ("quadratic-gram", "wide"),
)
DEFAULT = ",".join(name for name, entry in ENTRIES.items() if not entry.is_optional)


def is_right(logits: Tensor, turns: Turns) -> np.ndarray:
    """(scored turns,) bool."""
    return (logits.argmax(-1) == turns.emotions.flatten())[turns.is_scored.flatten()].numpy()


def train(model: nn.Module, suite: Suite, *, learning_rate: float, steps: int, seed: int) -> None:
    """AdamW with warm-up and cosine decay; each step takes new conversations."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = CosineAdamW(parameters, learning_rate=learning_rate, steps=steps)
    model.train()
    for step in range(steps):
        numbers = (TRAINING, seed, step)
        turns = draw_turns(draw_scripts(suite, CONVERSATIONS, seed=numbers), seed=numbers)
        is_scored = turns.is_scored.flatten()
        loss = F.cross_entropy(model(turns)[is_scored], turns.emotions.flatten()[is_scored])
        optimizer.step(loss)
    model.eval()


def try_entry(name: str, suite: Suite, test: Turns, *, steps: int, seeds: int) -> dict[str, dict]:
    """Train a model once for each seed; which turns it gets right, its parameters and its time for a turn, by name.

    A trained memory is also tested with a reset before every turn.
    """
    right: dict[str, list[str]] = {name: []}
    seconds = 0.0
    for seed in range(1 if ENTRIES[name].is_slow else seeds):
        torch.manual_seed(seed)
        model = ENTRIES[name].make()
        train(model, suite, learning_rate=ENTRIES[name].learning_rate, steps=steps, seed=seed)
        if isinstance(model, TemporaryLora):
            model.choose_step(draw_turns(draw_scripts(suite, 100, seed=(CHOOSING, seed)), seed=(CHOOSING, seed)))
        began = time.perf_counter()
        with torch.no_grad():
            right[name].append(_digits(is_right(model(test), test)))
        seconds += time.perf_counter() - began
        if name in RESETS:
            model.is_reset = True
            with torch.no_grad():
                right.setdefault(RESETS[name], []).append(_digits(is_right(model(test), test)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    milliseconds = 1e3 * seconds / len(right[name]) / math.prod(test.shape)
    about = {"steps": steps, "parameters": parameters, "milliseconds": milliseconds}
    return {tried: {**about, "right": digits} for tried, digits in right.items()}


def _digits(right: np.ndarray) -> str:
    return "".join("01"[int(hit)] for hit in right)


def load(path: Path, title: str, scripts: list[Script], steps: int) -> Row | None:
    """A row of the table out of what `try_entry` found; None if nothing of these sizes was found."""
    found = json.loads(path.read_text()) if path.exists() else {}
    conversations = scored_turns(scripts)[0]
    if found.get("steps") != steps or any(len(digits) != len(conversations) for digits in found["right"]):
        return None
    right = np.array([[digit == "1" for digit in digits] for digits in found["right"]])
    return Row(title, Scores(right, conversations), found["parameters"], found["milliseconds"])


def report(name: str, suite: Suite, scripts: list[Script], folder: Path, *, steps: int) -> str:
    """The table of all models with results of these sizes in the folder, written there with a picture."""
    titles = {key: entry.title for key, entry in ENTRIES.items()}
    titles = {key: titles[key] for key in ("utterance", "memory")} | {"reset": "memory, reset every turn"} | titles
    titles[RESETS["quadratic-gram"]] = "the same, reset every turn"
    found = {key: row for key, t in titles.items() if (row := load(folder / f"{key}.json", t, scripts, steps))}
    rows = list(found.values())
    utterance, bound = rows[0].scores, bound_scores(suite, scripts)
    bounds = [
        Row("best possible, utterance only", bound_scores(suite, scripts, uses_history=False)),
        Row("best possible", bound),
    ]
    has_gap = name != "null"
    table = gap_table([*rows, *bounds], utterance, bound, has_gap=has_gap)
    (folder / "table.md").write_text(f"{table}\n")
    gaps = {
        row.name: gap_closed(row.scores, utterance, bound) if has_gap else difference(row.scores, utterance)
        for row in rows[1:]
    }
    label = "gap closed" if has_gap else "accuracy less that of utterance only"
    if gaps:
        draw_gaps(gaps, folder / "gaps.png", title=suite.name, label=label, to_reach=TO_REACH.get(name))
    return "\n\n".join([table, *_compared(found)])


def _compared(found: dict[str, Row]) -> list[str]:
    """A table of the differences in accuracy between memories, if there are any."""
    lines = []
    for name, over in COMPARED:
        if name in found and over in found:
            points, (low, high) = difference(found[name].scores, found[over].scores)
            lines.append(f"| {name} - {over} | {100 * points:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |")
    return ["\n".join(["| memories | points (95 % interval) |", "| --- | ---: |", *lines])] if lines else []


def main(
    suite: Annotated[str, typer.Argument(help=f"Suite: {', '.join(SUITES)} or all.")],
    seeds: Annotated[
        int, typer.Option(help="Number of random seeds of each model; slow models are trained once.")
    ] = 3,
    steps: Annotated[int, typer.Option(help="Number of steps of each training.")] = 500,
    models: Annotated[str, typer.Option(help=f"Comma-separated models: {', '.join(ENTRIES)}.")] = DEFAULT,
    conversations: Annotated[int, typer.Option(help="Number of test conversations.")] = 300,
    output: Annotated[Path, typer.Option(help="Folder for results, tables and pictures.")] = RESULTS,
) -> None:
    """Train and test the models, and print a table, which includes earlier results of the same sizes."""
    torch.set_num_threads(1)
    chosen = models.split(",")
    if suite not in ("all", *SUITES):
        raise typer.BadParameter(f"the suite must be one of {', '.join(SUITES)} or all, got {suite}.")
    if unknown := set(chosen) - set(ENTRIES):
        raise typer.BadParameter(f"models must be out of {', '.join(ENTRIES)}, got {', '.join(sorted(unknown))}.")
    for name in SUITES if suite == "all" else [suite]:
        drawn, folder = SUITES[name](), output / name
        folder.mkdir(parents=True, exist_ok=True)
        scripts = draw_scripts(drawn, conversations, seed=(TEST,))
        test = draw_turns(scripts, seed=(TEST,))
        has_utterance = "utterance" in chosen or load(folder / "utterance.json", "", scripts, steps)
        for key in chosen if has_utterance else ["utterance", *chosen]:
            for tried, found in try_entry(key, drawn, test, steps=steps, seeds=seeds).items():
                (folder / f"{tried}.json").write_text(json.dumps(found) + "\n")
        print(f"\n{drawn.name}\n\n{report(name, drawn, scripts, folder, steps=steps)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
