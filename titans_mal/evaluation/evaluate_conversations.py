"""`evaluate_conversations`: one report of a model on conversations, with its controls, by any number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data.problems import Problem
from ..processes import process_state
from .conditions import CONDITIONS
from .listener import Group, Listener, make_groups
from .protocol import model_of, protocol_of
from .report import EvaluationReport, build_report


READOUTS = ("logits", "text")
PROGRESS_FOLDER = "progress"


def evaluate_conversations(
    model,
    processor,
    dataset: Dataset,
    output_dir: str | Path,
    *,
    train: Dataset | None = None,
    conditions: Sequence[str] = tuple(CONDITIONS),
    batch_size: int = 16,
    readout: str = "logits",
    max_new_tokens: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    problems: Sequence[Problem] = (),
    strict: bool = False,
) -> EvaluationReport:
    """Hear every conversation with memory and under its controls, and write one report.

    Conversations go whole through the model, many turns at once, over all processes of `accelerate launch`; the
    numbers do not depend on how many there are. A run that was stopped goes on where it was when it is called again
    with the same arguments.

    Args:
        model: with memory; its device is left as it is. It is put into evaluation mode.
        processor: of its host.
        dataset: a split of `load_conversations`; turns with a label below 0 are heard and not scored.
        output_dir: gets `report.json`, `report.md`, `predictions.jsonl` and the pictures.
        train: the split for the majority floor; None takes it from `dataset` itself, which the report says.
        conditions: of `CONDITIONS`; "memory" and "reads_off" are needed for what depends on them.
        batch_size: turns heard at once.
        readout: "logits" as the model's config reads them (label tokens or linear head), or "text", generated and
            parsed.
        max_new_tokens: of generated text.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the shuffled histories.
        problems: of the data, listed in the report.
        strict: raise where a turn's sound cannot be used, instead of leaving it out of every column.

    Raises:
        ValueError: for arguments that are not allowed, labels that the model does not know, a table without scored
            turns, or an `output_dir` that holds another run.
    """
    _check(model, dataset, conditions, batch_size, readout)
    output_dir = Path(output_dir)
    state = process_state()
    labels = dataset.features["emotion"].names
    protocol = protocol_of(model, processor, dataset, readout=readout, max_new_tokens=max_new_tokens, seed=seed)
    run = {"protocol": protocol, "model": model_of(model), "conditions": list(conditions), "batch_size": batch_size}
    progress = _Progress(output_dir / PROGRESS_FOLDER, run, state)
    groups = make_groups(dataset, batch_size)
    listener = Listener(
        model,
        processor,
        dataset,
        labels,
        batch_size=batch_size,
        readout=readout,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    left = [group for group in groups if group.number not in progress.done]
    with torch.inference_mode(), _evaluating(model):
        for group in _with_bar(left[state.process_index :: state.num_processes], shown=state.is_main_process):
            progress.write(_hear(listener, group, conditions, several=len(set(dataset["conversation_id"])) > 1))
            if strict and listener.not_heard:
                row, reason = next(iter(listener.not_heard.items()))
                raise ValueError(f"Row {row} of the dataset cannot be heard: {reason}")
    state.wait_for_everyone()
    if state.is_main_process:
        report = build_report(
            run,
            dataset,
            progress.read(),
            train=train,
            resamples=resamples,
            problems=problems,
            processes=state.num_processes,
        )
        report.save(output_dir)
    state.wait_for_everyone()
    return EvaluationReport.load(output_dir)


def _check(model, dataset: Dataset, conditions, batch_size: int, readout: str) -> None:
    unknown = [name for name in conditions if name not in CONDITIONS]
    if unknown or not len(conditions):
        raise ValueError(f"conditions must be of {list(CONDITIONS)}, got {list(conditions)}.")
    if readout not in READOUTS:
        raise ValueError(f"readout must be one of {READOUTS}, got {readout!r}.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}.")
    labels = dataset.features["emotion"].names
    foreign = [label for label in labels if label not in model.config.labels]
    if foreign:
        raise ValueError(
            f"The data has labels {foreign} that the model does not know; it knows {model.config.labels}. Give "
            "load_conversations a label_set that maps to these."
        )
    if not any(emotion >= 0 for emotion in dataset["emotion"]):
        raise ValueError("No turn of the dataset is scored: every emotion is below 0.")


def _hear(listener: Listener, group: Group, conditions: Sequence[str], *, several: bool) -> dict:
    """Everything that is heard of a group, as one line of the progress file."""
    listener.load(group)
    # A single conversation has no other whose state it could read.
    names = [name for name in conditions if several or name != "other_state"]
    heard = {name: vars(CONDITIONS[name](listener, group)) for name in names}
    rows = {turn.row for turn in group.turns}
    not_heard = {row: reason for row, reason in listener.not_heard.items() if row in rows}
    return {"group": group.number, "not_heard": not_heard, "heard": heard}


class _Progress:
    """What was heard so far: in a folder, one file a process, one line a group.

    Raises:
        ValueError: if the folder holds another run, naming what differs.
    """

    def __init__(self, folder: Path, run: dict, state: PartialState):
        self._folder = folder
        self._file = folder / f"part-{state.process_index}.jsonl"
        path = folder / "run.json"
        if state.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(json.dumps(run, indent=2, ensure_ascii=False), encoding="utf-8")
        state.wait_for_everyone()
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in run if before.get(key) != json.loads(json.dumps(run[key]))]
        if differing:
            raise ValueError(
                f"{folder.parent} holds another run, with another {' and '.join(differing)}: choose another folder, "
                f"or remove {folder}."
            )
        self.done = {line["group"] for line in self.read()}
        if self._file.exists():
            # A line that a stopped process left unfinished.
            whole = [text for text in self._file.read_text(encoding="utf-8").splitlines() if _is_json(text)]
            self._file.write_text("".join(f"{text}\n" for text in whole), encoding="utf-8")
        state.wait_for_everyone()

    def write(self, line: dict) -> None:
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def read(self) -> list[dict]:
        """The lines of all processes, by group."""
        texts = [
            text for path in sorted(self._folder.glob("part-*.jsonl")) for text in path.read_text("utf-8").splitlines()
        ]
        return sorted((json.loads(text) for text in texts if _is_json(text)), key=lambda line: line["group"])


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


@contextmanager
def _evaluating(model) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _with_bar(groups: list[Group], *, shown: bool) -> Iterator[Group]:
    """The groups, while a bar on standard error counts their turns."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("turns", total=sum(len(group.turns) for group in groups))
        for group in groups:
            yield group
            bar.advance(task, len(group.turns))
