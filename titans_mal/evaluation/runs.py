"""Group reports by model: runs that differ only in seed or fold, over which means are computed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .protocol import ProtocolError
from .report_file import EvaluationReport
from .statistics import METRICS


# Fields of a training recipe in which runs of one model may differ.
_OF_THE_RUN = ("seed", "data_seed", "fold", "steps", "skipped steps", "output_dir", "run_name")
_OF_THE_WEIGHTS = ("name", "weights", "training", "temperature")
# The numbers that are ignored in the names of runs whose training is not recorded.
_NUMBERED = re.compile(r"(fold|seed)[\W_]?\d+", re.IGNORECASE)


@dataclass
class RunGroup:
    """Reports of one model, whose runs differ only in seed or fold.

    Attributes:
        reports: the reports, in the given order.
        difference: what distinguishes it from other models of its name, in parentheses; empty for a name of its own.
    """

    reports: list[EvaluationReport] = field(default_factory=list)
    difference: str = ""

    @property
    def name(self) -> str:
        """The common part of the runs' names, with placeholders for the numbers of fold and seed, and `difference`."""
        return self._common_name + self.difference

    @property
    def _common_name(self) -> str:
        names = list(dict.fromkeys(report.content["model"]["name"] for report in self.reports))
        if len(names) == 1:
            return names[0]
        masked = {_masked(name) for name in names}
        return masked.pop() if len(masked) == 1 else f"{names[0]} and {len(names) - 1} more"

    @property
    def seeds(self) -> list[tuple[int | None, int]]:
        """For each report its training seed (None: not recorded), and the number of earlier reports with that seed and
        fold."""
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
        """Whether the training of all models is recorded, so that nothing else can differ."""
        return all(report.content["model"].get("training") for report in self.reports)

    @property
    def varies(self) -> str | None:
        """The varied property, "seeds" or "folds"; None for a single run, or if each seed has other folds."""
        folds_of = defaultdict(set)
        for seed, fold in zip(self.seeds, self.folds):
            folds_of[seed].add(fold)
        if len(folds_of) == 1:
            return "folds" if len(self.reports) > 1 else None
        return "seeds" if len(set(map(frozenset, folds_of.values()))) == 1 else None

    def mean(self, name: str, metric: str) -> dict[str, float | None]:
        """`value`, the mean of a condition's metric over all runs, and `deviation`, the sample standard deviation over
        what `varies`; for seeds with several folds each, over the seeds' means."""
        values = [report.conditions[name]["metrics"][metric]["value"] for report in self.reports]
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
    """Group reports by model, in the given order.

    Two runs are of one model if class, base, memory, LoRA and dtype agree, and the training recipe up to seed and
    fold. Without a recorded recipe, their names must agree up to the numbers after "fold" and "seed".

    Raises:
        ProtocolError: for two reports of the same weights and fold, which would count one run twice.
    """
    found: dict[str, RunGroup] = defaultdict(RunGroup)
    for report in reports:
        found[_model_key(report.content["model"])].reports.append(report)
    groups = list(found.values())
    for group in groups:
        _check_weights(group)
    by_name = defaultdict(list)
    for group in groups:
        by_name[group.name].append(group)
    for namesakes in by_name.values():
        if len(namesakes) > 1:
            _tell_apart(namesakes)
    return groups


def _check_weights(group: RunGroup) -> None:
    """Raise ProtocolError if two reports are of the same weights and fold."""
    seen: dict[tuple, str] = {}
    for report in group.reports:
        model, fold = report.content["model"], report.protocol["fold"]
        run = (model["weights"], fold)
        if model["weights"] is not None and run in seen:
            raise ProtocolError(
                f"The reports of {seen[run]} and {model['name']} are of the same weights and turns, so a mean would "
                "count one run twice: give one of them."
            )
        seen[run] = model["name"]


def _tell_apart(groups: Sequence[RunGroup]) -> None:
    """Set `difference` of models with one name: the fields in which they differ, or their weights."""
    described = [_described(group.reports[0].content["model"]) for group in groups]
    names = list(dict.fromkeys(name for fields in described for name in fields))
    differing = [name for name in names if len({str(fields.get(name, "-")) for fields in described}) > 1]
    for group, fields in zip(groups, described):
        weights = {"weights": group.reports[0].content["model"]["weights"]}
        shown = {name: fields.get(name, "-") for name in differing} or weights
        group.difference = f" ({', '.join(f'{name} {value}' for name, value in shown.items())})"


def _described(model: dict) -> dict:
    """The fields that may distinguish models of one name; memory and LoRA have columns of their own."""
    training = model.get("training") or {}
    recipe = {name: value for name, value in training.items() if name not in _OF_THE_RUN}
    names = ("class", "base", "base_revision", "dtype")
    follows = model.get("emotion_transitions", False)
    return recipe | {name: model.get(name) for name in names} | {"emotion_transitions": follows}


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
