"""Compare the reports of `host.py`, of one fold or pooled over folds.

    python examples/real_voices/host_folds.py host_1 host_2

Intervals are those of the feature form: a bootstrap over test speakers, then dialogues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from intervals import ScoredTurns, average_recall, paired_difference

from titans_mal.evaluation.compare import compare_conditions
from titans_mal.evaluation.report import EvaluationReport


# What is compared: report and condition, minus report and condition. "memory" and "plain" were trained with memory and
# without; "transitions" is "memory" that follows emotion transitions.
COMPARED = [
    ("memory", "memory", "memory", "memory_off"),
    ("memory", "memory", "memory", "other_state"),
    ("memory", "memory", "memory", "transitions"),
    ("memory", "memory", "plain", "memory_off"),
    ("memory", "memory_off", "plain", "memory_off"),
    ("transitions", "memory", "memory", "memory"),
    ("transitions", "memory", "memory", "memory_off"),
    ("transitions", "memory", "transitions", "other_state"),
    ("transitions", "memory", "memory", "transitions"),
    ("transitions", "memory", "plain", "memory_off"),
    ("transitions", "memory", "plain", "transitions"),
]


def print_reports(reports: dict[str, EvaluationReport]) -> None:
    """Print the recall of each condition, and the differences of `COMPARED`."""
    for name, report in reports.items():
        recalls = {key: condition["metrics"]["ua"]["value"] for key, condition in report.conditions.items()}
        print(f"{name}: " + ", ".join(f"{key} {100 * recall:.1f}" for key, recall in recalls.items()), flush=True)
    for name, condition, other_name, other in COMPARED:
        if {name, other_name} <= {*reports}:
            found = compare_conditions(reports[name], condition, reports[other_name], other)["metrics"]
            for metric, points in found.items():
                low, high = points["interval"] or (float("nan"),) * 2
                print(
                    f"{condition} of {name} - {other} of {other_name}, {metric}: {100 * points['value']:+.1f} "
                    f"({100 * low:+.1f} to {100 * high:+.1f})"
                )


def scored_turns(report: EvaluationReport) -> ScoredTurns:
    """The turns of a report, with its labels, speakers and dialogues as numbers."""
    emotions = np.array([report.protocol["labels"].index(turn["label"]) for turn in report.predictions])
    names = [[turn[field] for turn in report.predictions] for field in ("speaker", "conversation_id")]
    return ScoredTurns(emotions, *(np.unique(column, return_inverse=True)[1] for column in names))


def _check(reports: dict[str, list[EvaluationReport]]) -> None:
    """Check that the folds have different turns, and the reports of a fold the same.

    Raises:
        ValueError: naming what is wrong.
    """
    speakers = [name for report in reports["memory"] for name in {turn["speaker"] for turn in report.predictions}]
    if len(speakers) > len({*speakers}):
        raise ValueError("The folds must test different speakers: give the output of each fold once.")
    for name, found in reports.items():
        for report, first in zip(found, reports["memory"]):
            keys = [[(turn["conversation_id"], turn["turn_index"], turn["label"]) for turn in of.predictions]
                    for of in (report, first)]  # fmt: skip
            if keys[0] != keys[1]:
                raise ValueError(f"The reports memory and {name} of a fold are of different turns.")


def is_right(reports: list[EvaluationReport], condition: str) -> np.ndarray:
    """(turns,) bool, over all folds.

    Raises:
        ValueError: for a condition that does not cover all turns.
    """
    turns = [turn for report in reports for turn in report.predictions]
    lacking = sum(condition not in turn["predicted"] for turn in turns)
    if lacking:
        raise ValueError(f"{lacking} of {len(turns)} turns have no prediction of {condition!r}.")
    return np.array([turn["predicted"][condition] == turn["label"] for turn in turns])


def main(
    outputs: Annotated[list[Path], typer.Argument(help="Output folders of host.py, one for each fold.")],
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = 1000,
) -> None:
    """Print recalls and differences over all folds."""
    names = [name for name in ("memory", "plain", "transitions") if (outputs[0] / name / "report").is_dir()]
    reports = {name: [EvaluationReport.load(output / name / "report") for output in outputs] for name in names}
    _check(reports)
    turns = ScoredTurns.join([scored_turns(report) for report in reports["memory"]])
    speakers, dialogues = (len(np.unique(numbers)) for numbers in (turns.speakers, turns.dialogues))
    print(f"{len(turns.emotions)} turns of {speakers} speakers in {dialogues} dialogues\n")
    for name, found in reports.items():
        for condition in found[0].conditions:
            recall = 100 * average_recall(is_right(found, condition), turns.emotions)[0]
            print(f"{name}, {found[0].conditions[condition]['title']}: {recall:.1f}")
    print()
    for name, condition, other_name, other in COMPARED:
        if {name, other_name} <= {*reports}:
            ours, theirs = is_right(reports[name], condition), is_right(reports[other_name], other)
            centre, low, high = paired_difference(ours, theirs, turns, resamples=resamples)
            print(f"{condition} of {name} - {other} of {other_name}: {centre:+.1f} ({low:+.1f} to {high:+.1f})")
    print()
    for report in reports["memory"]:
        on, off = (is_right([report], condition) for condition in ("memory", "memory_off"))
        print(f"with the memory, {(on & ~off).sum()} turns become right and {(off & ~on).sum()} wrong")
        here, names = scored_turns(report), np.array([turn["speaker"] for turn in report.predictions])
        for speaker in np.unique(names):
            rows = names == speaker
            recalls = [100 * average_recall(right[rows], here.emotions[rows])[0] for right in (on, off)]
            print(f"{speaker}: {recalls[0]:.1f} with the memory, {recalls[1]:.1f} without")


if __name__ == "__main__":
    typer.run(main)
