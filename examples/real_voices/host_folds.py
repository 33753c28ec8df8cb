"""Compare the reports of `host.py`, of one fold or pooled over folds.

    python examples/real_voices/host_folds.py host_1 host_2

Intervals are those of the feature form: a bootstrap in which test speakers and dialogues are drawn independently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from intervals import ScoredTurns, average_recall, in_points, paired_difference

from titans_mal.evaluation.compare import compare_conditions
from titans_mal.evaluation.report import EvaluationReport


class Side(NamedTuple):
    """One side of a comparison: a condition of a report.

    Attributes:
        report: "memory" and "plain" are of the models that were trained with memory and without; "with_transitions"
            is of the first one, with emotion transitions in its configuration.
        condition: a condition of the report; "transitions" is the baseline that decodes the turns with memory off.
    """

    report: str
    condition: str

    def __str__(self) -> str:
        return f"{self.condition} of {self.report}"


MEMORY, MEMORY_OFF, OTHER_STATE = (Side("memory", name) for name in ("memory", "memory_off", "other_state"))
DECODED, DECODED_OTHER = Side("with_transitions", "memory"), Side("with_transitions", "other_state")
PLAIN = Side("plain", "memory_off")
BASELINE, PLAIN_BASELINE = Side("memory", "transitions"), Side("plain", "transitions")
# What is compared: the first, minus the second.
COMPARED = [
    (MEMORY, MEMORY_OFF),
    (MEMORY, OTHER_STATE),
    (MEMORY, BASELINE),
    (MEMORY, PLAIN),
    (MEMORY_OFF, PLAIN),
    (DECODED, MEMORY),
    (DECODED, MEMORY_OFF),
    (DECODED, DECODED_OTHER),
    (DECODED, BASELINE),
    (DECODED, PLAIN),
    (DECODED, PLAIN_BASELINE),
]


def _comparable(reports: Mapping[str, object]) -> list[tuple[Side, Side]]:
    """The comparisons between the given reports."""
    return [sides for sides in COMPARED if {side.report for side in sides} <= {*reports}]


def print_reports(reports: dict[str, EvaluationReport]) -> None:
    """Print the recall of each condition, and the differences of `COMPARED`."""
    for name, report in reports.items():
        recalls = {key: condition["metrics"]["ua"]["value"] for key, condition in report.conditions.items()}
        print(f"{name}: " + ", ".join(f"{key} {100 * recall:.1f}" for key, recall in recalls.items()), flush=True)
    for ours, theirs in _comparable(reports):
        found = compare_conditions(reports[ours.report], ours.condition, reports[theirs.report], theirs.condition)
        for metric, points in found["metrics"].items():
            low, high = points["interval"] or (float("nan"),) * 2
            print(f"{ours} - {theirs}, {metric}: {in_points(*(100 * part for part in (points['value'], low, high)))}")


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


def _check_recipes(outputs: list[Path]) -> None:
    """Check that the hosts were made with the same options, but for the fold.

    Raises:
        ValueError: naming the folders.
    """
    recipes = [json.loads((output / "host_options.json").read_text()) | {"fold": None} for output in outputs]
    for output, recipe in zip(outputs, recipes):
        if recipe != recipes[0]:
            raise ValueError(f"{output} and {outputs[0]} hold hosts of other options: {recipe} and {recipes[0]}.")


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
    names = [name for name in ("memory", "plain", "with_transitions") if (outputs[0] / name / "report").is_dir()]
    reports = {name: [EvaluationReport.load(output / name / "report") for output in outputs] for name in names}
    _check(reports)
    _check_recipes(outputs)
    turns = ScoredTurns.join([scored_turns(report) for report in reports["memory"]])
    speakers, dialogues = (len(np.unique(numbers)) for numbers in (turns.speakers, turns.dialogues))
    print(f"{len(turns.emotions)} turns of {speakers} speakers in {dialogues} dialogues\n")
    for name, found in reports.items():
        for condition in found[0].conditions:
            is_hit = is_right(found, condition)
            recall = 100 * average_recall(is_hit, turns.emotions)[0]
            print(f"{name}, {found[0].conditions[condition]['title']}: UA {recall:.1f}, WA {100 * is_hit.mean():.1f}")
    print()
    for ours, theirs in _comparable(reports):
        sides = [is_right(reports[side.report], side.condition) for side in (ours, theirs)]
        scored = turns, turns.as_one_emotion()
        ua, wa = (in_points(*paired_difference(*sides, of, resamples=resamples)) for of in scored)
        print(f"{ours} - {theirs}: UA {ua}, WA {wa}")
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
