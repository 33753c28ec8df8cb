"""The audio form of the evidence: spoken conversations through the tiny host, which is frozen.

    python examples/evidence/audio.py baseline
    python examples/evidence/audio.py carry-over --baselines lora,prompt-8 --seeds 1

Every model is trained and tested on the same conversations, for the same number of steps. A run that was stopped
resumes from the results in its output folder.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from audio_rows import ENTRIES, Trial
from gap import Row, Scores, bound_scores, draw_gaps, gap_closed, gap_table, scored_turns
from other_voices import other_voices_table, score_other_voices
from spoken_suites import encode_suite, load_host
from turn_cost import turn_costs

from titans_mal.data.synthetic.suites import SUITES, Script, Suite


RESULTS = Path(__file__).parent / "results" / "audio"
TO_REACH = {"baseline": 0.4}
# In the suite "null" there is no gap to close.
SPOKEN = [name for name in SUITES if name != "null"]
# Seeds of the conversations.
TRAINING, TEST, CHOOSING = 1, 2, 3


@dataclass
class Bench:
    """A suite, its conversations, and the results so far, which are kept in a file.

    Attributes:
        suite, scripts: of the test conversations.
        trial: the encoded conversations, and the number of steps.
        path: of the file.
        found: for each row, which scored turns are right: one string of 0 and 1 for each seed.
    """

    suite: Suite
    scripts: list[Script]
    trial: Trial
    path: Path
    found: dict

    def scores(self, name: str) -> Scores:
        right = np.array([[digit == "1" for digit in row] for row in self.found["right"][name].values()])
        return Scores(right, scored_turns(self.scripts)[0])

    def add(self, name: str, seed: int, logits: torch.Tensor, parameters: int | None) -> None:
        scored = self.trial.test.labels >= 0
        right = (logits.argmax(-1) == self.trial.test.labels)[scored]
        self.found["right"].setdefault(name, {})[str(seed)] = "".join("01"[hit] for hit in right.int().tolist())
        self.found["parameters"][name] = parameters

    def save(self) -> None:
        self.path.write_text(json.dumps(self.found, indent=1) + "\n")


def open_bench(name: str, *, conversations: int, test_conversations: int, steps: int, output: Path) -> Bench:
    """Synthesise and encode the conversations of a suite, and load the results so far."""
    suite = SUITES[name]()
    host, processor = load_host()
    _, training = encode_suite(host, processor, suite, conversations, TRAINING)
    scripts, test = encode_suite(host, processor, suite, test_conversations, TEST)
    settings = {"conversations": conversations, "test_conversations": test_conversations, "steps": steps}
    path = output / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("settings") != settings:
        found = {"settings": settings, "right": {}, "parameters": {}, "minutes": {}, "other voices": {}}
    return Bench(suite, scripts, Trial(training, test, steps), path, found)


def run_entry(bench: Bench, name: str, seed: int, also: Path | None) -> None:
    """Train the model of a row with a seed and keep its results, unless they are known."""
    if str(seed) in bench.found["right"].get(name, {}):
        return
    began = time.monotonic()
    result = ENTRIES[name].run(Trial(bench.trial.train, bench.trial.test, bench.trial.steps, seed))
    rows = result.logits if isinstance(result.logits, dict) else {name: result.logits}
    for row, logits in rows.items():
        bench.add(row, seed, logits, result.parameters)
        print(f"{row}, seed {seed}: accuracy {bench.scores(row).right[-1].mean():.3f}", flush=True)
    bench.found["minutes"].setdefault(name, {})[str(seed)] = (time.monotonic() - began) / 60
    if name == "memory" and also is not None:
        accuracies = score_other_voices(result.model, also, steps=max(1, bench.trial.steps // 4), seed=seed)
        bench.found["other voices"].setdefault(also.name, {})[str(seed)] = accuracies
    bench.save()


def report(bench: Bench) -> str:
    """The tables of AUDIO.md in Markdown; the gaps are also drawn."""
    bound = bound_scores(bench.suite, bench.scripts)
    utterance = bench.scores("utterance")
    costs = bench.found["cost"]
    names = [name for name in ENTRIES if name in bench.found["right"]]
    rows = [
        Row(
            ENTRIES[name].title,
            bench.scores(name),
            bench.found["parameters"][name],
            costs.get(name, {}).get("milliseconds"),
        )
        for name in names
    ]
    alone = bound_scores(bench.suite, bench.scripts, uses_history=False)
    gaps = {row.name: gap_closed(row.scores, utterance, bound) for row in rows[1:]}
    name = bench.path.stem
    draw_gaps(gaps, bench.path.with_suffix(".png"), title=f"{name}, spoken", to_reach=TO_REACH.get(name))
    settings = bench.found["settings"]
    lines = [
        f"### {name}\n",
        f"{settings['conversations']} training and {settings['test_conversations']} test conversations, "
        f"{settings['steps']} steps. Bayes bound {bound.accuracy:.1%}, "
        f"from the utterance alone {alone.accuracy:.1%}.\n",
        gap_table(rows, utterance, bound),
        "\n| turn 8 in the decoder | positions | MFLOP | ms |\n| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {ENTRIES[key].title} | {cost['positions']} | {cost['mflops']:.0f} | {cost['milliseconds']:.1f} |"
        for key, cost in costs.items()
    ]
    lines += [other_voices_table(folder, found) for folder, found in bench.found["other voices"].items()]
    return "\n".join(lines) + "\n"


def main(
    suite: Annotated[str, typer.Argument(help=f"Suite: {', '.join(SPOKEN)}.")],
    seeds: Annotated[
        int, typer.Option(help="Number of random seeds of each memory; slow baselines are trained once.")
    ] = 3,
    steps: Annotated[int, typer.Option(help="Number of training steps of each model.")] = 500,
    conversations: Annotated[int, typer.Option(help="Number of training conversations.")] = 1200,
    test_conversations: Annotated[int, typer.Option(help="Number of test conversations.")] = 200,
    baselines: Annotated[
        str, typer.Option(help="Comma-separated names of the baselines to train, 'all' or 'none'.")
    ] = "all",
    output: Annotated[Path, typer.Option(help="Folder for results, tables and pictures.")] = RESULTS,
    also: Annotated[
        Path | None, typer.Option(help="Folder with metadata.csv on which the memory is also scored.")
    ] = None,
) -> None:
    """Rerun a suite from its seeds to its table and picture."""
    chosen = {"all": list(ENTRIES), "none": []}.get(baselines, baselines.split(","))
    if suite not in SPOKEN or not set(chosen) <= set(ENTRIES):
        raise typer.BadParameter(f"Suites are {SPOKEN}, and baselines {list(ENTRIES)}.")
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    bench = open_bench(
        suite, conversations=conversations, test_conversations=test_conversations, steps=steps, output=output
    )
    for name, entry in ENTRIES.items():
        if entry.run is not None and name in {"utterance", "memory", *chosen}:
            for seed in range(1 if entry.has_one_seed else seeds):
                run_entry(bench, name, seed, also)
    if "cost" not in bench.found:
        bench.found["cost"] = turn_costs(bench.trial.test)
        bench.save()
    table = report(bench)
    bench.path.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    typer.run(main)
