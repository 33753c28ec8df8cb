"""Several reports in one table: models, seeds of a model, folds of a corpus; only of one protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .markdown import METRIC_TITLES, format_metric, lora_name, memory_layers, memory_scope, table, training_seed
from .protocol import check_comparable
from .report import PREDICTIONS_FILE, EvaluationReport, measure
from .runs import RunGroup, group_runs
from .statistics import METRICS


def compare_reports(reports: Sequence[EvaluationReport]) -> dict:
    """Means over the runs of a model, and folds pooled.

    Returns:
        `groups`: a list with an entry for each model, of the reports whose runs differ in seed or fold alone: `name`,
        `runs` (how many), `varies` ("seeds", "folds" or None), `mean` (for each condition that all reports have and
        each metric, `value`, the mean over the runs, and `deviation`, the sample standard deviation over what varies;
        None of a single run) and `pooled` (where every run is of another fold, the same of all their turns together,
        with `interval`; else None). `mean` and `pooled`: those of the only model; None where there are several.

    Raises:
        ValueError: for no report, or folds without their predictions.
        ProtocolError: for reports of different protocols or major schema versions.
    """
    if not reports:
        raise ValueError("compare_reports needs at least one report, got none.")
    check_comparable([report.content for report in reports])
    names = [name for name in reports[0].columns if all(name in report.columns for report in reports)]
    groups = [
        {
            "name": group.name,
            "runs": len(group.reports),
            "varies": group.varies,
            "mean": group.means(names),
            "pooled": _pooled(group, names),
        }
        for group in group_runs(reports)
    ]
    only = groups[0] if len(groups) == 1 else {"mean": None, "pooled": None}
    return {"groups": groups, "mean": only["mean"], "pooled": only["pooled"]}


def comparison_markdown(reports: Sequence[EvaluationReport]) -> str:
    """The Markdown of `compare_reports`, with a line for each report and one for each model.

    Raises:
        ValueError, ProtocolError: as `compare_reports`.
    """
    compared = compare_reports(reports)
    protocol, titles = reports[0].protocol, {name: c["title"] for name, c in reports[0].columns.items()}
    parts = [
        f"# {protocol['corpus']}, {protocol['label_set']}, {protocol['split']}",
        f"Prompt: {protocol['prompt']!r}. Readout: {protocol['readout']}. Percent; intervals of 95 % by conversation.",
        "## Memory on, each report",
        table(
            ["model", *_MODEL_TITLES, "seed", "fold", *METRIC_TITLES.values(), "WA, minus memory off"],
            map(_report_row, reports),
        ),
        "## Memory on, each model\n\nMean over runs that differ in seed or fold alone +- sample standard deviation.",
        table(["model", *_MODEL_TITLES, "runs", *METRIC_TITLES.values()], map(_group_row, group_runs(reports))),
    ]
    for group, numbers in zip(group_runs(reports), compared["groups"]):
        parts += _group_parts(group, numbers, titles)
    return "\n\n".join(parts) + "\n"


_MODEL_TITLES = ("memory layers", "scope", "LoRA")


def _group_parts(group: RunGroup, numbers: dict, titles: dict[str, str]) -> list[str]:
    """All conditions of a model with several runs; nothing of one with a single run."""
    if len(group.reports) == 1:
        return []
    varies = "" if group.varies is None else f", and standard deviation over {group.varies}"
    recorded = (
        ""
        if group.is_recorded
        else (
            " How these runs were trained is not recorded: that only seed or fold differs is taken from their names."
        )
    )
    parts = [
        f"## {group.name}\n\nMean of {len(group.reports)} reports{varies}.{recorded}",
        table(
            ["condition", *METRIC_TITLES.values()],
            ([titles[name], *map(_spread, means.values())] for name, means in numbers["mean"].items()),
        ),
    ]
    if numbers["pooled"] is not None:
        rows = ([titles[name], *map(format_metric, metrics.values())] for name, metrics in numbers["pooled"].items())
        parts += [f"## Folds pooled, {group.name}", table(["condition", *METRIC_TITLES.values()], rows)]
    return parts


def _pooled(group: RunGroup, names: Sequence[str]) -> dict[str, dict] | None:
    reports, folds = group.reports, group.folds
    if None in folds or len(set(folds)) < len(folds) or len(folds) < 2:
        return None
    labels = reports[0].protocol["labels"]
    without = [report.protocol["fold"] for report in reports if not report.predictions]
    if without:
        raise ValueError(f"To pool folds their {PREDICTIONS_FILE} are needed; those of folds {without} are missing.")
    turns = [{**turn, "fold": report.protocol["fold"]} for report in reports for turn in report.predictions]
    references = np.array([labels.index(turn["label"]) for turn in turns])
    conversations = [f"{turn['fold']} {turn['conversation_id']}" for turn in turns]
    bootstrap = {"resamples": reports[0].content["bootstrap"]["resamples"], "seed": reports[0].protocol["seed"]}
    pooled = {}
    for name in names:
        predictions = [turn["predicted"][name] for turn in turns]
        predicted = np.array([-1 if label is None else labels.index(label) for label in predictions])
        pooled[name], _ = measure(predicted, references, conversations, len(labels), **bootstrap)
    return pooled


def _model_cells(report: EvaluationReport) -> list[str]:
    model = report.content["model"]
    return [memory_layers(model), memory_scope(model), lora_name(model)]


def _report_row(report: EvaluationReport) -> list[str]:
    model, fold = report.content["model"], report.protocol["fold"]
    metrics = report.columns.get("memory", {}).get("metrics")
    values = ["-"] * len(METRICS) if metrics is None else [format_metric(metrics[metric]) for metric in METRICS]
    difference = report.content["differences"].get("reads_off")
    return [
        model["name"],
        *_model_cells(report),
        training_seed(model),
        "-" if fold is None else str(fold),
        *values,
        format_metric(difference["metrics"]["wa"]) if difference else "-",
    ]


def _group_row(group: RunGroup) -> list[str]:
    has_memory = all("memory" in report.columns for report in group.reports)
    values = [_spread(group.mean("memory", metric)) if has_memory else "-" for metric in METRICS]
    over = "" if group.varies is None else f" ({group.varies})"
    return [group.name, *_model_cells(group.reports[0]), f"{len(group.reports)}{over}", *values]


def _spread(metric: dict) -> str:
    value = f"{100 * metric['value']:.1f}"
    return value if metric["deviation"] is None else f"{value} +- {100 * metric['deviation']:.1f}"
