"""Several reports in one table: folds of a corpus, seeds of a model, or models; only of one protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .markdown import METRIC_TITLES, table, told
from .protocol import check_comparable
from .report import PREDICTIONS_FILE, EvaluationReport, measure
from .statistics import METRICS


def compare_reports(reports: Sequence[EvaluationReport]) -> dict:
    """Means over reports, and folds pooled.

    Returns:
        `mean`: for each column that all reports have and each metric, `value` (mean over reports) and `deviation`
        (sample standard deviation; None of a single report). `pooled`: where every report is of another fold, the same
        of all their turns together, with `interval`; None otherwise.

    Raises:
        ValueError: for no report, or folds without their predictions.
        ProtocolError: for reports of different protocols.
    """
    if not reports:
        raise ValueError("compare_reports needs at least one report, got none.")
    check_comparable([report.content for report in reports])
    names = [name for name in reports[0].columns if all(name in report.columns for report in reports)]
    return {"mean": {name: _mean(reports, name) for name in names}, "pooled": _pooled(reports, names)}


def comparison_markdown(reports: Sequence[EvaluationReport]) -> str:
    """The Markdown of `compare_reports`, with a line for each report.

    Raises:
        ValueError, ProtocolError: as `compare_reports`.
    """
    compared = compare_reports(reports)
    protocol, titles = reports[0].protocol, {name: c["title"] for name, c in reports[0].columns.items()}
    parts = [
        f"# {protocol['corpus']}, {protocol['label_set']}, {protocol['split']}",
        f"Prompt: {protocol['prompt']!r}. Readout: {protocol['readout']}. Percent; intervals of 95 % by conversation.",
        "## Memory on, each report",
        table(["model", "fold", *METRIC_TITLES.values(), "WA, minus reads off"], map(_report_row, reports)),
        f"## Mean of {len(reports)} reports, and standard deviation",
        table(["column", *METRIC_TITLES.values()], ([titles[n], *map(_spread, m.values())]
                                                    for n, m in compared["mean"].items())),
    ]  # fmt: skip
    if compared["pooled"] is not None:
        rows = ([titles[name], *map(told, metrics.values())] for name, metrics in compared["pooled"].items())
        parts += ["## Folds pooled", table(["column", *METRIC_TITLES.values()], rows)]
    return "\n\n".join(parts) + "\n"


def _mean(reports: Sequence[EvaluationReport], name: str) -> dict[str, dict]:
    means = {}
    for metric in METRICS:
        values = [report.columns[name]["metrics"][metric]["value"] for report in reports]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        means[metric] = {"value": float(np.mean(values)), "deviation": deviation}
    return means


def _pooled(reports: Sequence[EvaluationReport], names: Sequence[str]) -> dict[str, dict] | None:
    folds = [report.protocol["fold"] for report in reports]
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
        told_labels = [turn["predicted"][name] for turn in turns]
        predicted = np.array([-1 if label is None else labels.index(label) for label in told_labels])
        pooled[name], _ = measure(predicted, references, conversations, len(labels), **bootstrap)
    return pooled


def _report_row(report: EvaluationReport) -> list[str]:
    name, fold = report.content["model"]["name"], report.protocol["fold"]
    metrics = report.columns.get("memory", {}).get("metrics")
    values = ["-"] * len(METRICS) if metrics is None else [told(metrics[metric]) for metric in METRICS]
    difference = report.content["differences"].get("reads_off")
    return [
        name,
        "-" if fold is None else str(fold),
        *values,
        told(difference["metrics"]["wa"]) if difference else "-",
    ]


def _spread(metric: dict) -> str:
    value = f"{100 * metric['value']:.1f}"
    return value if metric["deviation"] is None else f"{value} +- {100 * metric['deviation']:.1f}"
