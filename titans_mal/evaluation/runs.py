"""Which reports are of one model: runs that differ in seed or fold alone, over which a mean says something."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .report_file import EvaluationReport
from .statistics import METRICS


# Of a training recipe, what two runs of one model may differ in.
_OF_THE_RUN = ("seed", "data_seed", "fold", "steps", "skipped steps", "output_dir", "run_name")
_OF_THE_WEIGHTS = ("name", "weights", "training", "temperature")
# In the name of a run whose training is not recorded.
_NUMBERED = re.compile(r"(fold|seed)[\W_]?\d+", re.IGNORECASE)


@dataclass
class RunGroup:
    """Reports of one model: of runs that differ in seed or fold alone.

    Attributes:
        reports: in the order of their mention.
    """

    reports: list[EvaluationReport] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What is common in the names of the runs: their name up to the numbers of fold and seed."""
        names = list(dict.fromkeys(report.content["model"]["name"] for report in self.reports))
        if len(names) == 1:
            return names[0]
        masked = {_masked(name) for name in names}
        return masked.pop() if len(masked) == 1 else f"{names[0]} and {len(names) - 1} more"

    @property
    def seeds(self) -> list[tuple[int | None, int]]:
        """For each report the seed of its training (None: not recorded), and how many of its fold had it before."""
        earlier: dict[tuple, int] = defaultdict(int)
        seeds = []
        for report in self.reports:
            seed, fold = _seed_of(report), report.protocol["fold"]
            seeds.append((seed, earlier[seed, fold]))
            earlier[seed, fold] += 1
        return seeds

    @property
    def folds(self) -> list[int | None]:
        return [report.protocol["fold"] for report in self.reports]

    @property
    def is_recorded(self) -> bool:
        """Whether it is known how the models were trained, so that nothing else differs."""
        return all(report.content["model"].get("training") for report in self.reports)

    @property
    def varies(self) -> str | None:
        """What a deviation is over: "seeds" or "folds"; None of a single run, or of seeds with other folds each."""
        folds_of = defaultdict(set)
        for seed, fold in zip(self.seeds, self.folds):
            folds_of[seed].add(fold)
        if len(folds_of) == 1:
            return "folds" if len(self.reports) > 1 else None
        return "seeds" if len(set(map(frozenset, folds_of.values()))) == 1 else None

    def mean(self, name: str, metric: str) -> dict[str, float | None]:
        """`value`, the mean of a metric of a condition over all runs, and `deviation`, the sample standard deviation
        over what `varies`: of seeds with several folds each, that of the seeds' means."""
        values = [report.columns[name]["metrics"][metric]["value"] for report in self.reports]
        if self.varies == "seeds":
            by_seed = defaultdict(list)
            for seed, value in zip(self.seeds, values):
                by_seed[seed].append(value)
            values = [float(np.mean(found)) for found in by_seed.values()]
        deviation = float(np.std(values, ddof=1)) if self.varies and len(values) > 1 else None
        return {"value": float(np.mean(values)), "deviation": deviation}

    def means(self, names: Sequence[str]) -> dict[str, dict]:
        """`mean` of each condition and metric."""
        return {name: {metric: self.mean(name, metric) for metric in METRICS} for name in names}


def group_runs(reports: Sequence[EvaluationReport]) -> list[RunGroup]:
    """Reports by model, in the order of their mention.

    Two runs are of one model if its class, base, memory, LoRA and dtype are the same, and so is the training recipe
    but for seed and fold. Where no recipe is recorded, their names must be the same but for the numbers behind "fold"
    and "seed".
    """
    groups: dict[str, RunGroup] = defaultdict(RunGroup)
    for report in reports:
        groups[_model_key(report.content["model"])].reports.append(report)
    return list(groups.values())


def _model_key(model: dict) -> str:
    training = model.get("training")
    fields = {name: value for name, value in model.items() if name not in _OF_THE_WEIGHTS}
    if training is None:
        fields["name"] = _masked(model["name"])
    else:
        fields["training"] = {name: value for name, value in training.items() if name not in _OF_THE_RUN}
    return json.dumps(fields, sort_keys=True)


def _masked(name: str) -> str:
    return _NUMBERED.sub(lambda found: f"{{{found[1].lower()}}}", name)


def _seed_of(report: EvaluationReport) -> int | None:
    return (report.content["model"].get("training") or {}).get("seed")
