"""Compare the reports of `host.py`, of one fold or pooled over folds, averaged over the seeds of each.

    python examples/real_voices/host_folds.py host_1 host_2
    python examples/real_voices/host_folds.py host_1_seed_0 host_1_seed_1 host_2_seed_0 host_2_seed_1

Intervals are those of the feature form: a bootstrap in which test speakers and dialogues are drawn independently.
More seeds do not narrow them, but a mean over seeds depends less on the chance of one training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from intervals import ScoredTurns, average_recall, in_points, note_on_few, paired_difference

from titans_mal.cli.messages import errors_in_one_line
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
# The reports of each fold, one for each seed; and those of each kind of model.
Folds = list[list[EvaluationReport]]
Reports = dict[str, Folds]
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


def outputs_by_fold(outputs: Sequence[Path]) -> list[list[Path]]:
    """The outputs of each fold, in the order of their seeds.

    Raises:
        ValueError: for hosts of other options, a fold and seed given twice, or folds with different seeds.
    """
    folds: dict[int, dict[int, Path]] = {}
    recipes = []
    for output in outputs:
        recipe = json.loads((output / "host_options.json").read_text())
        # Hosts of earlier versions have no seed.
        of_fold, seed = folds.setdefault(recipe.pop("fold"), {}), recipe.pop("seed", 0)
        if seed in of_fold:
            raise ValueError(f"{output} and {of_fold[seed]} are of the same fold and seed: give each once.")
        of_fold[seed] = output
        recipes.append(recipe)
        if recipe != recipes[0]:
            raise ValueError(f"{output} and {outputs[0]} contain hosts of other options: {recipe} and {recipes[0]}.")
    seeds = {fold: sorted(of_fold) for fold, of_fold in folds.items()}
    if len({*map(tuple, seeds.values())}) > 1:
        raise ValueError(f"Every fold needs the same seeds, got, by fold: {seeds}.")
    return [[of_fold[seed] for seed in sorted(of_fold)] for of_fold in folds.values()]


def _check_turns(reports: Reports) -> None:
    """Check that the folds have different speakers, and the reports of a fold the same turns.

    Raises:
        ValueError: naming what is wrong.
    """
    speakers = [name for fold in reports["memory"] for name in {turn["speaker"] for turn in fold[0].predictions}]
    if len(speakers) > len({*speakers}):
        raise ValueError("The folds must test different speakers.")
    for name, folds in reports.items():
        for fold, (first, *_) in zip(folds, reports["memory"]):
            if any(_turns_of(report) != _turns_of(first) for report in fold):
                raise ValueError(f"The reports memory and {name} of a fold are of different turns.")


def _turns_of(report: EvaluationReport) -> list[tuple]:
    return [(turn["conversation_id"], turn["turn_index"], turn["label"]) for turn in report.predictions]


def is_right(folds: Folds, condition: str) -> np.ndarray:
    """(seeds, turns) bool, over the turns of all folds.

    Raises:
        ValueError: for a condition that does not cover all turns.
    """
    return np.concatenate([np.stack([_hits(report, condition) for report in fold]) for fold in folds], axis=1)


def _hits(report: EvaluationReport, condition: str) -> np.ndarray:
    """(turns,) bool."""
    turns = report.predictions
    lacking = sum(condition not in turn["predicted"] for turn in turns)
    if lacking:
        raise ValueError(f"{lacking} of {len(turns)} turns of a fold have no prediction of {condition!r}.")
    return np.array([turn["predicted"][condition] == turn["label"] for turn in turns])


def main(
    outputs: Annotated[list[Path], typer.Argument(help="Output folders of host.py, of one or more folds and seeds.")],
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.")] = 1000,
) -> None:
    """Print recalls and differences over all folds, averaged over seeds."""
    folds = outputs_by_fold(outputs)
    names = [name for name in ("memory", "plain", "with_transitions") if (outputs[0] / name / "report").is_dir()]
    reports: Reports = {
        name: [[EvaluationReport.load(output / name / "report") for output in fold] for fold in folds]
        for name in names
    }
    _check_turns(reports)
    turns = ScoredTurns.join([scored_turns(fold[0]) for fold in reports["memory"]])
    speakers, dialogues = (len(np.unique(numbers)) for numbers in (turns.speakers, turns.dialogues))
    of_seeds = f"; {len(folds[0])} seeds" if len(folds[0]) > 1 else ""
    print(f"{len(turns.emotions)} turns of {speakers} speakers in {dialogues} dialogues{of_seeds}\n")
    if few := note_on_few(speakers):
        print(f"{few}\n")
    for name, found in reports.items():
        for condition, about in found[0][0].conditions.items():
            is_hit = is_right(found, condition)
            recall = 100 * average_recall(is_hit, turns.emotions)[0]
            print(f"{name}, {about['title']}: UA {recall:.1f}, WA {100 * is_hit.mean():.1f}")
    print()
    for ours, theirs in _comparable(reports):
        sides = [is_right(reports[side.report], side.condition) for side in (ours, theirs)]
        scored = turns, turns.as_one_emotion()
        ua, wa = (in_points(*paired_difference(*sides, of, resamples=resamples)) for of in scored)
        print(f"{ours} - {theirs}: UA {ua}{_of_seeds(*sides, turns)}, WA {wa}")
    for fold in reports["memory"]:
        _print_fold(fold)


def _of_seeds(first: np.ndarray, second: np.ndarray, turns: ScoredTurns) -> str:
    """The difference of each seed alone, if there are several."""
    if len(first) == 1:
        return ""
    recalls = [[average_recall(hits, turns.emotions)[0] for hits in side] for side in (first, second)]
    return f" [by seed: {', '.join(f'{100 * (one - other):+.1f}' for one, other in zip(*recalls))}]"


def _print_fold(fold: Sequence[EvaluationReport]) -> None:
    """Print what the memory changes in a fold: the number of turns, and the recall, also of each speaker."""
    emotions, names = scored_turns(fold[0]).emotions, np.array([turn["speaker"] for turn in fold[0].predictions])
    on, off = (is_right([fold], condition) for condition in ("memory", "memory_off"))
    print(f"\nwith the memory, {_mean_count(on & ~off)} turns become right and {_mean_count(off & ~on)} wrong")
    rows = {"all speakers": np.ones(len(names), bool)} | {name: names == name for name in np.unique(names)}
    for name, chosen in rows.items():
        recalls = [100 * average_recall(right[:, chosen], emotions[chosen])[0] for right in (on, off)]
        print(f"{name}: {recalls[0]:.1f} with the memory, {recalls[1]:.1f} without")


def _mean_count(is_changed: np.ndarray) -> str:
    """How many of (seeds, turns) are true, averaged over seeds."""
    return f"{is_changed.sum(1).mean():g}"


if __name__ == "__main__":
    typer.run(errors_in_one_line()(main))
