"""Compare reports of one protocol in one table: several models, seeds of a model, folds of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..safe_text import markdown_text
from .measures import compare_predictions, measure
from .protocol import ProtocolError, check_comparable
from .report_file import PREDICTIONS_FILE, EvaluationReport
from .report_tables import (
    METRIC_TITLES,
    SPELT_OUT,
    difference_cells,
    lora_name,
    memory_layers,
    memory_scope,
    training_seed,
)
from .runs import RunGroup, group_runs
from .statistics import METRICS
from .tables import Number, Table


def compare_reports(reports: Sequence[EvaluationReport]) -> dict:
    """Means over the runs of each model, and pooled folds.

    Returns:
        `groups`: a list with one entry per model, whose reports differ only in seed or fold: `name`, `runs` (their
        number), `varies` ("seeds", "folds" or None), `mean` (for each condition that all reports have and each metric,
        `value`, the mean over runs, and `deviation`, the sample standard deviation over what varies; None for a single
        run) and `pooled` (if every run is of another fold, the metrics over all turns together, with `interval`; else
        None). `mean` and `pooled`: those of the only model; None if there are several.

    Raises:
        ValueError: for an empty list, or folds without their predictions.
        ProtocolError: for reports of different protocols or major schema versions.
    """
    if not reports:
        raise ValueError("compare_reports needs at least one report, got none.")
    check_comparable([report.content for report in reports])
    names = [name for name in reports[0].conditions if all(name in report.conditions for report in reports)]
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
    """The result of `compare_reports` as Markdown, with one line per report and one per model.

    Raises:
        ValueError, ProtocolError: as `compare_reports`.
    """
    compared = compare_reports(reports)
    protocol = reports[0].protocol
    parts = [
        "# " + markdown_text(f"{protocol['corpus']}, {protocol['label_set']}, {protocol['split']}"),
        markdown_text(f"Prompt: {protocol['prompt']!r}. Readout: {protocol['readout']}.")
        + f" Percent; intervals of 95 % by conversation. {SPELT_OUT}",
        "## Memory on, each report",
        reports_table(reports).markdown(),
        "## Memory on, each model\n\nMean over runs that differ only in seed or fold +- sample standard deviation.",
        models_table(reports).markdown(),
    ]
    for group, numbers in zip(group_runs(reports), compared["groups"]):
        parts += _group_parts(group, numbers, {name: c["title"] for name, c in reports[0].conditions.items()})
    return "\n\n".join(parts) + "\n"


def reports_table(reports: Sequence[EvaluationReport]) -> Table:
    """One row per report: its model, and its metrics with memory on."""
    titles = ["model", *_MODEL_TITLES, "seed", "fold", *METRIC_TITLES.values(), "WA, minus memory off"]
    differences = {id(report): group.difference for group in group_runs(reports) for report in group.reports}
    return Table("reports", titles, [_report_row(report, differences[id(report)]) for report in reports])


def models_table(reports: Sequence[EvaluationReport]) -> Table:
    """One row per model: means of its metrics with memory on, over runs that differ only in seed or fold."""
    titles = ["model", *_MODEL_TITLES, "runs", *METRIC_TITLES.values()]
    return Table("models", titles, list(map(_group_row, group_runs(reports))))


def compare_paired(first: EvaluationReport, second: EvaluationReport) -> dict[str, dict]:
    """The first report minus the second on the same turns, for each condition that both have.

    Returns:
        For each condition `metrics`, with `value` and the 95 % `interval` of the difference by bootstrap over
        conversations, and `mcnemar`, as in a report's `differences`.

    Raises:
        ValueError: for a report without its predictions, or reports with no condition in common.
        ProtocolError: for reports of different protocols, or of different turns.
    """
    check_comparable([first.content, second.content])
    if first.protocol["fold"] != second.protocol["fold"]:
        raise ProtocolError(
            f"A paired comparison needs the same turns, but these are of folds {first.protocol['fold']} and "
            f"{second.protocol['fold']}."
        )
    for report in (first, second):
        if not report.predictions:
            raise ValueError(f"The report of {report.content['model']['name']} lacks its {PREDICTIONS_FILE}.")
    turns = [[(turn["conversation_id"], turn["turn_index"]) for turn in r.predictions] for r in (first, second)]
    if turns[0] != turns[1]:
        raise ProtocolError("A paired comparison needs the same turns, but these reports scored different ones.")
    names = [name for name in first.conditions if name in second.conditions]
    return {name: compare_conditions(first, name, second, name) for name in names}


def compare_conditions(first: EvaluationReport, condition: str, second: EvaluationReport, other: str) -> dict:
    """A condition of one report minus another one of a second report of the same turns, as in `compare_paired`."""
    labels, conversations = first.protocol["labels"], [turn["conversation_id"] for turn in first.predictions]
    references = np.array([labels.index(turn["label"]) for turn in first.predictions])
    return compare_predictions(
        _places(first.predictions, condition, labels),
        _places(second.predictions, other, labels),
        np.where(_has(first.predictions, condition) & _has(second.predictions, other), references, -1),
        conversations,
        len(labels),
        resamples=first.content["bootstrap"]["resamples"],
        seed=first.protocol["seed"],
    )


def paired_table(first: EvaluationReport, second: EvaluationReport) -> Table:
    """One row per condition of `compare_paired`."""
    titles = ["condition", *METRIC_TITLES.values(), "better / worse turns", "McNemar p"]
    found = compare_paired(first, second)
    return Table("paired", titles, [[first.conditions[n]["title"], *difference_cells(d)] for n, d in found.items()])


def paired_markdown(first: EvaluationReport, second: EvaluationReport) -> str:
    """The result of `compare_paired` as Markdown.

    Raises:
        ValueError, ProtocolError: as `compare_paired`.
    """
    names = [markdown_text(report.content["model"]["name"]) for report in (first, second)]
    return (
        f"# {names[0]} minus {names[1]}\n\nPercentage points on the same {len(first.predictions)} turns, with 95 % "
        "intervals by bootstrap over conversations. McNemar's test assumes independent turns; the intervals do not. "
        f"{SPELT_OUT}\n\n{paired_table(first, second).markdown()}\n"
    )


_MODEL_TITLES = ("memory layers", "scope", "LoRA")


def _group_parts(group: RunGroup, numbers: dict, titles: dict[str, str]) -> list[str]:
    """All conditions of a model with several runs; empty for a single run."""
    if len(group.reports) == 1:
        return []
    varies = "" if group.varies is None else f", and standard deviation over {group.varies}"
    recorded = (
        ""
        if group.is_recorded
        else (
            " The training of these runs is not recorded: that only seed or fold differs is inferred from their names."
        )
    )
    parts = [
        f"## {markdown_text(group.name)}\n\nMean of {len(group.reports)} reports{varies}.{recorded}",
        _conditions_table(numbers["mean"], titles),
    ]
    if numbers["pooled"] is not None:
        parts += [f"## Folds pooled, {markdown_text(group.name)}", _conditions_table(numbers["pooled"], titles)]
    return parts


def _conditions_table(metrics: dict[str, dict], titles: dict[str, str]) -> str:
    rows: list[Sequence] = [[titles[name], *map(Number.of, found.values())] for name, found in metrics.items()]
    return Table("conditions", ["condition", *METRIC_TITLES.values()], rows).markdown()


def _pooled(group: RunGroup, names: Sequence[str]) -> dict[str, dict] | None:
    reports, folds = group.reports, group.folds
    if None in folds or len(set(folds)) < len(folds) or len(folds) < 2:
        return None
    labels = reports[0].protocol["labels"]
    without = [report.protocol["fold"] for report in reports if not report.predictions]
    if without:
        raise ValueError(f"Pooling folds needs their {PREDICTIONS_FILE}; those of folds {without} are missing.")
    turns = [{**turn, "fold": report.protocol["fold"]} for report in reports for turn in report.predictions]
    references = np.array([labels.index(turn["label"]) for turn in turns])
    conversations = [f"{turn['fold']} {turn['conversation_id']}" for turn in turns]
    bootstrap = {"resamples": reports[0].content["bootstrap"]["resamples"], "seed": reports[0].protocol["seed"]}
    pooled = {}
    for name in names:
        scored = np.where(_has(turns, name), references, -1)
        pooled[name] = measure(_places(turns, name, labels), scored, conversations, len(labels), **bootstrap)
    return pooled


def _has(predictions: Sequence[dict], name: str) -> np.ndarray:
    """(turns,) bool, whether a condition covers a turn."""
    return np.array([name in turn["predicted"] for turn in predictions])


def _places(predictions: Sequence[dict], name: str, labels: Sequence[str]) -> np.ndarray:
    """(turns,) the numbers of the predicted labels of a condition, -1 for none."""
    predicted = [turn["predicted"].get(name) for turn in predictions]
    return np.array([-1 if label is None else labels.index(label) for label in predicted])


def _model_cells(report: EvaluationReport) -> list[str]:
    model = report.content["model"]
    return [memory_layers(model), memory_scope(model), lora_name(model)]


def _report_row(report: EvaluationReport, difference_of_name: str) -> list:
    model, fold = report.content["model"], report.protocol["fold"]
    metrics = report.conditions.get("memory", {}).get("metrics")
    difference = report.content["differences"].get("memory_off")
    return [
        model["name"] + difference_of_name,
        *_model_cells(report),
        training_seed(model),
        "-" if fold is None else str(fold),
        *(Number(None) if metrics is None else Number.of(metrics[metric]) for metric in METRICS),
        Number.of(difference["metrics"]["wa"]) if difference else Number(None),
    ]


def _group_row(group: RunGroup) -> list:
    has_memory = all("memory" in report.conditions for report in group.reports)
    over = "" if group.varies is None else f" ({group.varies})"
    values = [Number.of(group.mean("memory", metric)) if has_memory else Number(None) for metric in METRICS]
    return [group.name, *_model_cells(group.reports[0]), f"{len(group.reports)}{over}", *values]
