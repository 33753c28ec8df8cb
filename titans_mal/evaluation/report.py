"""The report of an evaluation: its numbers as JSON of a written schema, as Markdown, and as pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import numpy as np
from datasets import Dataset

from ..data.overview import DEPTHS, depth_name, history_depths
from ..data.problems import Problem
from .conditions import CONDITIONS
from .emotion_metrics import EmotionMetrics
from .floors import copy_previous, majority, speaker_normalised
from .statistics import METRICS, confusions, difference, interval, mcnemar
from .table_scoring import parse_label


SCHEMA = json.loads((Path(__file__).parent / "report.schema.json").read_text(encoding="utf-8"))
# Major.minor; a report of another major version has other conditions.
SCHEMA_VERSION = "2.0"
REPORT_FILE, PREDICTIONS_FILE = "report.json", "predictions.jsonl"

TITLES = {
    "memory": "memory on",
    "reads_off": "reads off",
    "half_reads": "half reads",
    "reset": "reset every turn",
    "other_state": "another conversation's state",
    "shuffled": "shuffled history",
    "speaker_normalised": "running per-speaker z-normalisation",
    "majority": "floor: majority",
    "copy_previous": "floor: copy of the speaker's previous gold label",
}
_DESCRIPTIONS = {
    "speaker_normalised": "Logits with reads off, each normalised by its running mean and deviation for the speaker.",
    "majority": "The most frequent label, for every turn.",
    "copy_previous": "The gold label of the speaker's latest scored turn, which no model may see; else the majority.",
}


@dataclass
class EvaluationReport:
    """A report and the predictions that it is made of.

    Attributes:
        content: as `report.schema.json` says.
        predictions: one dict a turn that was scored: `conversation_id`, `turn_index`, `speaker`, `label`, and
            `predicted`, a label for each column (None: an answer that names none).
    """

    content: dict
    predictions: list[dict]

    def __post_init__(self):
        try:
            jsonschema.validate(self.content, SCHEMA)
        except jsonschema.ValidationError as error:
            raise ValueError(f"No evaluation report: {error.json_path}: {error.message}") from error

    @property
    def protocol(self) -> dict:
        return self.content["protocol"]

    @property
    def columns(self) -> dict[str, dict]:
        return self.content["columns"]

    def save(self, folder: str | Path) -> None:
        """Write JSON, Markdown, predictions and pictures into a folder."""
        from .markdown import report_markdown
        from .pictures import draw_confusion, draw_history

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(turn) + "\n" for turn in self.predictions)
        (folder / PREDICTIONS_FILE).write_text("".join(lines), encoding="ascii")
        draw_confusion(self.content, folder / "confusion.png")
        draw_history(self.content, folder / "history.png")
        (folder / "report.md").write_text(report_markdown(self.content), encoding="utf-8")
        content = json.dumps(self.content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / REPORT_FILE).write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> EvaluationReport:
        """Read what `save` wrote.

        Args:
            path: the folder, or its `report.json`.

        Raises:
            FileNotFoundError: if there is no report.
            ValueError: if it is none by the schema, saying where.
        """
        path = Path(path)
        path = path / REPORT_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"There is no evaluation report at {path}.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
        predictions = path.parent / PREDICTIONS_FILE
        lines = predictions.read_text(encoding="utf-8").splitlines() if predictions.is_file() else []
        return cls(content, [json.loads(line) for line in lines])


@dataclass
class _Turns:
    """The columns of the table that numbers are made of, and which turns are scored."""

    conversations: list[str]
    speakers: list[str]
    references: np.ndarray
    labels: list[str]
    depths: list[int]

    @classmethod
    def of(cls, dataset: Dataset, not_heard: dict[int, str]) -> _Turns:
        columns = dataset.select_columns(["conversation_id", "speaker", "emotion"]).to_dict()
        references = np.array(columns["emotion"])
        references[list(not_heard)] = -1
        depths = history_depths(columns["conversation_id"], columns["speaker"])
        labels = dataset.features["emotion"].names
        return cls(columns["conversation_id"], columns["speaker"], references, labels, depths)


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
) -> EvaluationReport:
    """The report of all that was heard.

    Args:
        run: `protocol`, `model`, `conditions` and `batch_size`.
        lines: what was heard of each group.
        groups: how many there must be.

    Raises:
        ValueError: if no turn that is scored could be heard, or a group was not.
    """
    missing = sorted(set(range(groups)) - {line["group"] for line in lines})
    if missing:
        raise ValueError(f"The groups {missing} of {groups} were not heard: run the evaluation again to go on.")
    not_heard = {int(row): reason for line in lines for row, reason in line["not_heard"].items()}
    turns = _Turns.of(dataset, not_heard)
    if not (turns.references >= 0).any():
        raise ValueError(
            f"None of the scored turns could be heard; the first reason is {next(iter(not_heard.values()))}"
        )
    heard = _merge(lines)
    predicted, unparsable = _model_columns(heard, turns)
    most = majority(turns.references if train is None else np.array(train["emotion"]), len(turns.labels))
    predicted["majority"] = np.full(len(turns.references), most)
    predicted["copy_previous"] = copy_previous(turns.references, turns.conversations, turns.speakers, most)
    seed = run["protocol"]["seed"]
    run["protocol"]["scored"] = int((turns.references >= 0).sum())
    columns = {
        name: _column(name, values, turns, unparsable.get(name), resamples=resamples, seed=seed)
        for name, values in predicted.items()
    }
    content = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **run,
        "processes": processes,
        "bootstrap": {"resamples": resamples, "unit": "conversation", "confidence": 0.95},
        "majority_from": "the evaluated split itself" if train is None else "the training split",
        "columns": columns,
        "differences": _differences(predicted, turns, resamples=resamples, seed=seed),
        "surprise": _surprise_by_history(heard, turns),
        "not_heard": _not_heard(dataset, not_heard),
        "problems": [str(problem) for problem in problems],
    }
    return EvaluationReport(content, _predictions(dataset, predicted, turns))


def _merge(lines: list[dict]) -> dict[str, dict[str, dict[int, object]]]:
    """By condition and kind (`logits`, `texts`, `surprise`), what was heard of each row."""
    heard: dict = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        for name, kinds in line["heard"].items():
            for kind, values in kinds.items():
                heard[name][kind] |= {int(row): value for row, value in values.items()}
    return heard


def _model_columns(heard: dict, turns: _Turns) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The predictions of each condition, -1 for none, and the share of answers that name no label."""
    predicted, unparsable = {}, {}
    total = len(turns.references)
    for name, kinds in heard.items():
        predicted[name] = np.full(total, -1)
        if kinds["texts"]:
            for row, text in kinds["texts"].items():
                predicted[name][row] = parse_label(text, turns.labels)
            unparsable[name] = float((predicted[name][turns.references >= 0] < 0).mean())
            continue
        rows = sorted(kinds["logits"])
        logits = np.array([kinds["logits"][row] for row in rows])
        predicted[name][rows] = logits.argmax(-1)
        if name == "reads_off":
            talkers = ([column[row] for row in rows] for column in (turns.conversations, turns.speakers))
            normalised = np.full(total, -1)
            normalised[rows] = speaker_normalised(logits, *talkers).argmax(-1)
            predicted["speaker_normalised"] = normalised
    return {name: predicted[name] for name in TITLES if name in predicted}, unparsable


def measure(
    predicted: np.ndarray, references: np.ndarray, conversations: Sequence[str], num_labels: int, **bootstrap
) -> tuple[dict[str, dict], dict]:
    """The metrics of predictions with their intervals, and all that `EmotionMetrics` says of them.

    Args:
        predicted, references: (turns,), as `EmotionMetrics` takes them.
        conversations: (turns,), what is drawn for the intervals.
        bootstrap: `resamples` and `seed`.
    """
    scores = EmotionMetrics().compute(
        predictions=predicted.tolist(), references=references.tolist(), num_labels=num_labels
    )
    counts = confusions(predicted, references, conversations, num_labels)
    metrics = {name: {"value": scores[name], "interval": interval(counts, name, **bootstrap)} for name in METRICS}
    return metrics, scores


def _column(name: str, predicted: np.ndarray, turns: _Turns, unparsable: float | None, **bootstrap) -> dict:
    metrics, scores = measure(predicted, turns.references, turns.conversations, len(turns.labels), **bootstrap)
    by_history: dict[str, list[bool]] = defaultdict(list)
    for depth, reference, label in zip(turns.depths, turns.references, predicted):
        if reference >= 0:
            by_history[depth_name(depth)].append(bool(reference == label))
    description = CONDITIONS[name].__doc__ if name in CONDITIONS else _DESCRIPTIONS[name]
    return {
        "title": TITLES[name],
        "description": " ".join(description.split()),
        "metrics": metrics,
        "recall": dict(zip(turns.labels, scores["recall"])),
        "confusion": scores["confusion"],
        "by_history": {
            depth: {"turns": len(by_history[depth]), "wa": float(np.mean(by_history[depth]))}
            for depth in (depth_name(first) for first, _ in DEPTHS)
            if by_history[depth]
        },
        "unparsable": unparsable,
    }


def _differences(predicted: dict[str, np.ndarray], turns: _Turns, **bootstrap) -> dict[str, dict]:
    """Memory on minus every other column, on the same turns."""
    if "memory" not in predicted:
        return {}
    scored = turns.references >= 0
    counts, right = {}, {}
    for name, values in predicted.items():
        counts[name] = confusions(values, turns.references, turns.conversations, len(turns.labels))
        right[name] = (values == turns.references)[scored]
    differences = {}
    for name in predicted:
        if name == "memory":
            continue
        told = {}
        for metric in METRICS:
            value, ends = difference(counts["memory"], counts[name], metric, **bootstrap)
            told[metric] = {"value": value, "interval": ends}
        differences[name] = {"metrics": told, "mcnemar": mcnemar(right["memory"], right[name])}
    return differences


def _surprise_by_history(heard: dict, turns: _Turns) -> dict[str, float]:
    """The mean surprise of the memory, by how many earlier turns the speaker has."""
    by_history: dict[str, list[float]] = defaultdict(list)
    for row, surprise in heard["memory"]["surprise"].items() if "memory" in heard else ():
        by_history[depth_name(turns.depths[row])].append(surprise)
    names = (depth_name(first) for first, _ in DEPTHS)
    return {name: float(np.mean(by_history[name])) for name in names if by_history[name]}


def _not_heard(dataset: Dataset, reasons: dict[int, str]) -> list[dict]:
    columns = dataset.select_columns(["conversation_id", "turn_index"])
    return [{**columns[row], "reason": reason} for row, reason in sorted(reasons.items())]


def _predictions(dataset: Dataset, predicted: dict[str, np.ndarray], turns: _Turns) -> list[dict]:
    columns = dataset.select_columns(["conversation_id", "turn_index", "speaker"])
    told = []
    for row, turn in enumerate(columns):
        if turns.references[row] < 0:
            continue
        labels = {name: turns.labels[values[row]] if values[row] >= 0 else None for name, values in predicted.items()}
        told.append({**turn, "label": turns.labels[turns.references[row]], "predicted": labels})
    return told
