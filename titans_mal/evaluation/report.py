"""Build the report of an evaluation from all scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from datasets import Dataset

from ..data.problems import Problem
from .answer_parsing import parse_label
from .baselines import decode_dialogues, emotion_transitions, speaker_centred, speaker_normalised
from .calibration import calibration_of, probabilities_of
from .dimensions import dimension_results
from .floors import copy_previous, majority
from .lora_conditions import ALL_CONDITIONS
from .measures import Turns, by_group, by_history, compare_predictions, confusion_and_recall, mean_by_history, measure
from .report_file import PREDICTIONS_FILE, SCHEMA_VERSION, EvaluationReport
from .report_tables import TITLES, TITLES_WITH_LORA
from .table_scoring import TableScores


__all__ = ["PREDICTIONS_FILE", "EvaluationReport", "build_report", "measure"]

_DESCRIPTIONS = {
    "speaker_normalised": "Logits with memory off, normalised by their running mean and deviation for the speaker.",
    "speaker_centred": "Memory off; the mean over the speaker's n earlier turns is subtracted from the readout's "
    "input and that of the training split added, with the weight n / (n + 2).",
    "transitions": "Probabilities with memory off, decoded over the dialogue (forward only) with the emotion "
    "transitions of the training split.",
    "memory_transitions": "Probabilities with memory on, decoded over the dialogue (forward only) with the emotion "
    "transitions of the training split.",
    "majority": "The most frequent label, for every turn.",
    "copy_previous": "The gold label of the speaker's latest scored turn (not available to models), or the majority.",
}
# Conditions decoded with emotion transitions, and the conditions whose probabilities they use.
_DECODED = {"transitions": "memory_off", "memory_transitions": "memory"}
# Conditions with results by group.
_BY_GROUP = ("memory", "memory_off")
NO_TRAINING_SPLIT = "there is no training split"
NO_PARTNER = "no conversation has a partner (no common speaker, at most one turn less)"
HAS_TRANSITIONS = "the model itself follows emotion transitions"
NO_LOGITS = "answers are generated, without logits"


@dataclass
class _Condition:
    """The predictions of a condition, baseline or floor.

    Attributes:
        predicted: (turns,), -1 for none.
        covered: (turns,) bool, the turns that the condition covers.
        logits: (scored rows, labels) of the rows `rows`; None without probabilities.
        unparsable: for generated text, the share of answers without a label.
    """

    predicted: np.ndarray
    covered: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    logits: np.ndarray | None = None
    unparsable: float | None = None

    @classmethod
    def of_logits(cls, logits: np.ndarray, rows: np.ndarray, total: int, *, are_probable: bool = True) -> _Condition:
        predicted, covered = np.full(total, -1), np.zeros(total, dtype=bool)
        predicted[rows], covered[rows] = logits.argmax(-1), True
        return cls(predicted, covered, rows, logits if are_probable else None)


def build_report(
    run: dict,
    dataset: Dataset,
    lines: list[dict],
    *,
    groups: int,
    train: Dataset | None,
    resamples: int,
    problems: Sequence[Problem],
    processes: int,
    training_logits: np.ndarray | None = None,
    partners: Mapping[str, int] | None = None,
) -> EvaluationReport:
    """Build the report from all scores.

    Args:
        run: `protocol`, `model`, `requested_conditions` and `batch_size`.
        lines: the scores of each group.
        groups: expected number of groups.
        training_logits: (turns, labels), with memory off, of turns of the training split.
        partners: number of conversations whose partner for "other_state" is in the same table ("here"), in the
            training split ("train") or missing ("none").

    Raises:
        ValueError: if no turn with a label could be scored, or a group is missing.
    """
    missing = sorted(set(range(groups)) - {line["group"] for line in lines})
    if missing:
        raise ValueError(f"The groups {missing} of {groups} were not scored: run the evaluation again to resume it.")
    not_scored = {int(row): reason for line in lines for row, reason in line["not_scored"].items()}
    # Missing in scores of earlier versions.
    processed = {int(row): seconds for line in lines for row, seconds in line.get("processed", {}).items()}
    turns = Turns.of(dataset, list(not_scored))
    dimensions = run["model"].get("dimensions", [])
    scores = _merge(lines)
    bootstrap = {"resamples": resamples, "seed": run["protocol"]["seed"]}
    values = dimension_results(scores, dimensions, dataset, without=list(not_scored), **bootstrap)
    if not turns.scored.any() and not values:
        raise ValueError(
            f"None of the turns with labels could be scored; the first reason is {next(iter(not_scored.values()))}"
        )
    words = run["model"].get("label_words", {})
    found = {name: _condition(scored, turns, words) for name, scored in scores.items()}
    conditions = {name: condition for name, condition in found.items() if condition is not None}
    temperature = run["model"].get("temperature", 1.0)
    baselines, left_out = _baselines(conditions.get("memory_off"), turns, train, training_logits)
    follows = run["model"].get("emotion_transitions", False)
    decoded, not_decoded = _decoded(conditions, turns, train, temperature, follows=follows)
    other = scores["other_state"] if "other_state" in found else None
    if other is not None and not (other.logits or other.texts or other.values):
        left_out["other_state"] = NO_PARTNER
    left_out |= not_decoded
    conditions |= baselines | decoded | _floors(turns, train)
    conditions = {name: conditions[name] for name in TITLES if name in conditions}
    run["protocol"]["scored"] = int(turns.scored.sum())
    titles = TITLES | (TITLES_WITH_LORA if run["model"].get("lora") else {})
    content = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **run,
        "processes": processes,
        "bootstrap": {"resamples": resamples, "unit": "conversation", "confidence": 0.95},
        "majority_from": "the evaluated split itself" if train is None else "the training split",
        "conditions": {
            name: {"title": titles[name], **_numbers(name, condition, turns, temperature, **bootstrap)}
            for name, condition in conditions.items()
        },
        "dimensions": values,
        "left_out": left_out,
        "without_partner": (partners or {}).get("none", 0),
        "partners_from_training": (partners or {}).get("train", 0),
        "differences": _differences(conditions, turns, **bootstrap),
        "groups": by_group({name: conditions[name].predicted for name in _BY_GROUP if name in conditions}, turns),
        "surprise": mean_by_history(scores["memory"].surprise if "memory" in scores else {}, turns.depths),
        "not_scored": _not_scored(dataset, not_scored),
        "cut": _cut(dataset, lines, processed),
        "problems": [str(problem) for problem in problems],
    }
    return EvaluationReport(content, _predictions(dataset, conditions, turns, temperature, processed))


def _merge(lines: list[dict]) -> dict[str, TableScores]:
    """The scores of all groups, by condition."""
    scores: dict[str, TableScores] = defaultdict(TableScores)
    for line in lines:
        for name, kinds in line["scores"].items():
            of_group = {kind: {int(row): value for row, value in rows.items()} for kind, rows in kinds.items()}
            scores[name].add(TableScores(**of_group))
    return scores


def _condition(scores: TableScores, turns: Turns, words: Mapping[str, str]) -> _Condition | None:
    """The predictions of a condition; None if it covers no turn with a label.

    Args:
        words: the word in generated answers of each label that is not its own word.
    """
    total = len(turns.references)
    rows = np.array(sorted({*scores.logits, *scores.texts}), dtype=int)
    if not turns.scored[rows].any():
        return None
    if scores.texts:
        predicted, covered = np.full(total, -1), np.zeros(total, dtype=bool)
        covered[rows] = True
        expected = [words.get(label, label) for label in turns.labels]
        for row, text in scores.texts.items():
            predicted[row] = parse_label(text, expected)
        return _Condition(predicted, covered, unparsable=float((predicted[turns.scored & covered] < 0).mean()))
    return _Condition.of_logits(np.array([scores.logits[row] for row in rows]), rows, total)


def _baselines(
    alone: _Condition | None,
    turns: Turns,
    train: Dataset | None,
    training_logits: np.ndarray | None,
) -> tuple[dict[str, _Condition], dict[str, str]]:
    """Baselines computed from the logits with memory off; and why others are left out."""
    if alone is None:
        return {}, {}
    if alone.logits is None:
        return {}, dict.fromkeys(("speaker_normalised", "speaker_centred"), NO_LOGITS)
    rows, total, left_out = alone.rows, len(turns.references), {}
    conversations, speakers = ([column[row] for row in rows] for column in (turns.conversations, turns.speakers))
    normalised = speaker_normalised(alone.logits, conversations, speakers)
    baselines = {"speaker_normalised": _Condition.of_logits(normalised, rows, total, are_probable=False)}
    if training_logits is None:
        left_out["speaker_centred"] = (
            NO_TRAINING_SPLIT if train is None else "no turn of the training split was scored"
        )
    else:
        centred = speaker_centred(alone.logits, conversations, speakers, training_logits.mean(0))
        baselines["speaker_centred"] = _Condition.of_logits(centred, rows, total)
    return baselines, left_out


def _decoded(
    conditions: Mapping[str, _Condition], turns: Turns, train: Dataset | None, temperature: float, *, follows: bool
) -> tuple[dict[str, _Condition], dict[str, str]]:
    """The conditions that are decoded with emotion transitions; and why others are left out.

    Args:
        follows: whether the model itself does so with its memory on.
    """
    decoded, left_out = {}, {}
    for name, of in _DECODED.items():
        if of not in conditions:
            continue
        source = conditions[of]
        if source.logits is None or train is None:
            left_out[name] = NO_LOGITS if source.logits is None else NO_TRAINING_SPLIT
            continue
        if follows and of == "memory":
            left_out[name] = HAS_TRANSITIONS
            continue
        chances = emotion_transitions(train["emotion"], train["conversation_id"], len(turns.labels))
        conversations = [turns.conversations[row] for row in source.rows]
        # Computed from probabilities at the model's temperature, and scaled back to logits.
        logits = temperature * decode_dialogues(source.logits / temperature, conversations, *chances)
        decoded[name] = _Condition.of_logits(logits, source.rows, len(turns.references))
    return decoded, left_out


def _floors(turns: Turns, train: Dataset | None) -> dict[str, _Condition]:
    if not turns.scored.any():
        return {}
    most = majority(turns.references if train is None else np.array(train["emotion"]), len(turns.labels))
    copies = copy_previous(turns.references, turns.conversations, turns.speakers, most)
    floors = {"majority": np.full(len(copies), most), "copy_previous": copies}
    return {name: _Condition(predicted, np.ones(len(copies), dtype=bool)) for name, predicted in floors.items()}


def _numbers(name: str, condition: _Condition, turns: Turns, temperature: float, **bootstrap) -> dict:
    turns = turns.only(condition.covered)
    metrics = measure(condition.predicted, turns.references, turns.conversations, len(turns.labels), **bootstrap)
    description = ALL_CONDITIONS[name].__doc__ or "" if name in ALL_CONDITIONS else _DESCRIPTIONS[name]
    calibration = None
    if condition.logits is not None:
        scored = turns.references[condition.rows] >= 0
        probabilities = probabilities_of(condition.logits[scored], temperature)
        calibration = calibration_of(probabilities, turns.references[condition.rows[scored]])
    return {
        "description": " ".join(description.split()),
        "metrics": metrics,
        **confusion_and_recall(condition.predicted, turns),
        "by_history": by_history(condition.predicted, turns, **bootstrap),
        "calibration": calibration,
        "unparsable": condition.unparsable,
    }


def _differences(conditions: Mapping[str, _Condition], turns: Turns, **bootstrap) -> dict[str, dict]:
    """Memory on minus every other condition, on the turns that both cover."""
    if "memory" not in conditions:
        return {}
    memory = conditions["memory"]
    return {
        name: compare_predictions(
            memory.predicted,
            condition.predicted,
            turns.only(memory.covered & condition.covered).references,
            turns.conversations,
            len(turns.labels),
            **bootstrap,
        )
        for name, condition in conditions.items()
        if name != "memory"
    }


def _not_scored(dataset: Dataset, reasons: dict[int, str]) -> list[dict]:
    named = dataset.select_columns(["conversation_id", "turn_index"])
    return [{**named[row], "reason": reason} for row, reason in sorted(reasons.items())]


def _cut(dataset: Dataset, lines: list[dict], processed: dict[int, float]) -> list[dict]:
    """The turns of which only the beginning was processed, with their lengths."""
    named = dataset.select_columns(["conversation_id", "turn_index"])
    cut = {int(row): seconds for line in lines for row, seconds in line.get("cut", {}).items()}
    return [
        {**named[row], "seconds": seconds, "processed_seconds": processed[row]} for row, seconds in sorted(cut.items())
    ]


def _predictions(
    dataset: Dataset,
    conditions: Mapping[str, _Condition],
    turns: Turns,
    temperature: float,
    processed: Mapping[int, float],
) -> list[dict]:
    probabilities: dict[int, dict[str, dict]] = defaultdict(dict)
    for name, condition in conditions.items():
        if condition.logits is not None:
            for row, shares in zip(condition.rows, probabilities_of(condition.logits, temperature)):
                probabilities[row][name] = {label: round(p, 6) for label, p in zip(turns.labels, shares.tolist())}
    named = dataset.select_columns(["conversation_id", "turn_index", "speaker"])
    predictions = []
    for row in np.flatnonzero(turns.scored).tolist():
        places = {name: condition.predicted[row] for name, condition in conditions.items() if condition.covered[row]}
        predictions.append(
            {
                **named[row],
                "label": turns.labels[turns.references[row]],
                "predicted": {name: turns.labels[place] if place >= 0 else None for name, place in places.items()},
                "probabilities": probabilities[row],
                "processed_seconds": processed.get(row),
            }
        )
    return predictions
