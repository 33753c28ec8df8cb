"""`evaluate_conversations`: evaluate a model on conversations under all conditions, with any number of processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset

from ..data.problems import Problem
from ..data.table import REQUIRED_COLUMNS
from ..modeling.configuration_titans_mal import read_labels
from ..modeling.turn_rules import check_flag, check_named, check_speakers, check_turn_index, warn_of_cut_turns
from ..processes import process_state
from ..progress import with_progress
from .conditions import CONDITIONS
from .dimensions import targets_of
from .lora_conditions import ALL_CONDITIONS
from .protocol import Reading, audio_fingerprint, data_fingerprint, model_of, protocol_of
from .report import EvaluationReport, build_report
from .report_versions import present_names
from .stored_scores import StoredScores
from .table_scoring import Conversation, Group, TableScorer, make_groups


READOUTS = ("logits", "text")
PROGRESS_FOLDER = "progress"
# Number of turns of the training split that are scored for the mean of its logits.
TRAINING_TURNS = 512


def evaluate_conversations(
    model,
    processor,
    dataset: Dataset,
    output_dir: str | Path,
    *,
    name: str | None = None,
    train: Dataset | None = None,
    conditions: Sequence[str] | None = None,
    batch_size: int = 16,
    readout: str = "logits",
    max_new_tokens: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    problems: Sequence[Problem] = (),
    strict: bool = False,
) -> EvaluationReport:
    """Score every conversation with memory and under control conditions, and write a report.

    Whole conversations are scored, many turns at once, by all processes of `accelerate launch`; the numbers do not
    depend on the number of processes. A stopped run is resumed by calling it again with the same arguments.

    Args:
        model: a model with memory; it stays on its device, and is put into evaluation mode.
        processor: the processor of its host.
        dataset: a split of `load_conversations`; turns with a label below 0 are processed but not scored.
        output_dir: folder for `report.json`, `report.md`, `predictions.jsonl` and the plots.
        name: name of the model in the report, its folder or repo. None: where it was loaded from; for a model that was
            not loaded, `output_dir`. A `training_recipe.json` there is included in the report.
        train: the training split, for the majority floor and baselines that need it: its label transitions, and the
            mean of its logits with memory off, for which up to `TRAINING_TURNS` of its turns are scored. It also
            provides the other conversation of "other_state" if `dataset` has no suitable one. None: the majority is
            that of `dataset` itself, and the report states that these baselines are left out.
        conditions: names in `CONDITIONS` and, with a LoRA on the host, `LORA_CONDITIONS`. None: all.
        batch_size: turns scored at once; numbers depend on it only by rounding.
        readout: "logits" by the model's configured readout (label tokens or linear head), or "text", generated and
            parsed.
        max_new_tokens: maximal number of generated tokens per turn.
        resamples: number of bootstrap resamples; at least 100.
        seed: random seed of the bootstrap, the shuffled histories and the turns of the training split.
        problems: problems of the data, which the report lists. It also lists turns that are longer than the host's
            window, of which only the beginning was processed, with one warning.
        strict: raise if a turn's audio is unusable, instead of leaving it out of every condition.

    Raises:
        ValueError: for invalid arguments, labels unknown to the model, a table without scored turns, turns out of
            order, more speakers than the memory can hold, logits that are not finite, or an `output_dir` with another
            run.
    """
    check_flag(strict, "strict")
    reading: Reading = {"readout": readout, "max_new_tokens": max_new_tokens, "seed": seed}
    if conditions is not None and not isinstance(conditions, str):
        conditions = present_names(conditions)
    _check_arguments(model, conditions, batch_size=batch_size, resamples=resamples, **reading)
    check_data(model, dataset, train)
    dataset, train = dataset.with_format(None), None if train is None else train.with_format(None)
    conditions = _possible(_conditions_of(model) if conditions is None else conditions, dataset, train)
    output_dir, state = Path(output_dir), process_state()
    protocol = protocol_of(model, processor, dataset, **reading)
    name = str(output_dir) if name is None and model.loaded_from is None else name
    run = {
        "protocol": protocol,
        "model": model_of(model, name),
        "requested_conditions": conditions,
        "batch_size": batch_size,
    }
    how: _How = {"batch_size": batch_size, "strict": strict, **reading}
    others = train if train is not None and "other_state" in conditions else None
    lines, groups = score_table(
        model, processor, dataset, output_dir / PROGRESS_FOLDER, run, conditions, others=others, **how
    )
    training_logits = None
    if train is not None and "memory_off" in conditions and readout == "logits" and read_labels(model.config):
        sample = _sample(train, seed)
        folder = output_dir / PROGRESS_FOLDER / "train"
        training_lines, _ = score_table(model, processor, sample, folder, run, ["memory_off"], **how)
        training_logits = [row for line in training_lines for row in line["scores"]["memory_off"]["logits"].values()]
    if state.is_main_process:
        report = build_report(
            run,
            dataset,
            lines,
            groups=len(groups),
            partners=Counter(_place_of_partner(c, len(dataset)) for group in groups for c in group.conversations),
            train=train,
            training_logits=np.array(training_logits) if training_logits else None,
            resamples=resamples,
            problems=problems,
            processes=state.num_processes,
        )
        report.save(output_dir)
        cut = [
            (f"{turn['conversation_id']}, turn {turn['turn_index']}", turn["seconds"])
            for turn in report.content["cut"]
        ]
        warn_of_cut_turns(cut, model.max_turn_seconds(processor))
    state.wait_for_everyone()
    return EvaluationReport.load(output_dir)


def _place_of_partner(conversation: Conversation, rows: int) -> str:
    """Where the partner of a conversation is: "here", among the `rows` of its own table, in "train", or "none"."""
    if not conversation.partner:
        return "none"
    return "here" if conversation.partner[0].row < rows else "train"


class _How(Reading):
    """Options of `score_table`."""

    batch_size: int
    strict: bool


def score_table(
    model,
    processor,
    table: Dataset,
    folder: Path,
    run: dict,
    conditions: Sequence[str],
    *,
    strict: bool,
    others: Dataset | None = None,
    **how,
) -> tuple[list[dict], list[Group]]:
    """Score a table under conditions, resuming a stopped run; returns the scores of each group, and the groups.

    Args:
        others: a table whose conversations are partners of those that have none in `table`.
    """
    state = process_state()
    groups = make_groups(table, how["batch_size"], others)
    run = {**run, "audio": audio_fingerprint(table), **_partners_in(others, groups, len(table))}
    stored = StoredScores(folder, run, state)
    scorer = TableScorer(model, processor, table, others=others, **how)
    left = [group for group in groups if group.number not in stored.done]
    with torch.inference_mode(), _evaluating(model):
        for group in _with_bar(left[state.process_index :: state.num_processes], shown=state.is_main_process):
            stored.write(_score(scorer, group, conditions, strict=strict))
    state.wait_for_everyone()
    return stored.read(), groups


def _partners_in(others: Dataset | None, groups: Sequence[Group], first: int) -> dict[str, list[str]]:
    """Fingerprints of the partners in the other table, whose rows begin at `first`; empty without any."""
    turns = (turn for group in groups for conversation in group.conversations for turn in conversation.partner)
    rows = sorted({turn.row - first for turn in turns if turn.row >= first})
    if others is None or not rows:
        return {}
    chosen = others.select(rows)
    return {"choice of training partners": [data_fingerprint(chosen), audio_fingerprint(chosen)]}


def _sample(train: Dataset, seed: int) -> Dataset:
    """Up to `TRAINING_TURNS` random turns of a training split, in their order."""
    if train.num_rows <= TRAINING_TURNS:
        return train
    rows = np.random.default_rng(seed).choice(train.num_rows, TRAINING_TURNS, replace=False)
    return train.select(sorted(rows.tolist()))


def _check_arguments(model, conditions, *, readout: str, **integers: int) -> None:
    allowed = _conditions_of(model)
    if conditions is not None:
        unknown = isinstance(conditions, str) or [name for name in conditions if name not in allowed]
        if unknown or not len(conditions):
            raise ValueError(f"conditions must be a list of any of {allowed}, got {conditions!r}.")
    if readout not in READOUTS:
        raise ValueError(f"readout must be one of {READOUTS}, got {readout!r}.")
    for name, value in integers.items():
        # Fewer resamples give no interval.
        least = {"seed": 0, "resamples": 100}.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def _conditions_of(model) -> list[str]:
    """All conditions that apply to a model."""
    return list(ALL_CONDITIONS if model.added_adapters else CONDITIONS)


def _possible(conditions: Sequence[str], dataset: Dataset, train: Dataset | None) -> list[str]:
    """The conditions that apply to the data: with a single conversation, there is no other state to read."""
    is_alone = train is None and len(set(dataset["conversation_id"])) == 1
    possible = [name for name in conditions if not (is_alone and name == "other_state")]
    if not possible:
        raise ValueError("The condition other_state needs several conversations, but the dataset has one.")
    return possible


def check_data(model, dataset: Dataset, train: Dataset | None = None) -> None:
    """Check that a model can be evaluated or trained on a table.

    Args:
        model: a model with memory.
        dataset: the table.
        train: another table, with the same labels.

    Raises:
        ValueError: as `evaluate_conversations`.
    """
    for table in (dataset, train):
        if isinstance(table, dict):
            raise ValueError(f"A dataset of several splits was given: choose one of {[*table]}.")
    dataset, train = dataset.with_format(None), None if train is None else train.with_format(None)
    missing = [name for name in REQUIRED_COLUMNS if name not in dataset.column_names]
    if missing or not isinstance(dataset.features["emotion"], ClassLabel):
        raise ValueError(
            f"The dataset needs the columns {list(REQUIRED_COLUMNS)} of load_conversations, with emotion a "
            f"ClassLabel; it has {dict(dataset.features)}."
        )
    for table in (dataset,) if train is None else (dataset, train):
        if None in table["emotion"]:
            raise ValueError("The dataset has turns whose emotion is None: it must be -1 if it is unknown.")
    labels, known = dataset.features["emotion"].names, read_labels(model.config)
    targets = targets_of(dataset, model.config.emotion_dimensions)
    foreign = [label for label in labels if label not in known]
    if known and foreign:
        raise ValueError(
            f"The data has labels {foreign} that the model does not know; it knows {model.config.labels}. Give "
            "a label_set (--label-set) that maps to these, as in joy=happy."
        )
    has_values = any(not np.isnan(values).all() for values in targets.values())
    is_scored = any(emotion >= 0 for emotion in dataset["emotion"])
    if not has_values and not (known and is_scored):
        dimensions = model.config.emotion_dimensions
        ratings = f", and none of {dimensions} is known" if dimensions else ""
        raise ValueError(f"No turn of the dataset is scored: every emotion is below 0{ratings}.")
    # Data of ratings alone has no labels.
    if train is not None and (
        train.features["emotion"].names != labels
        or (is_scored and not any(emotion >= 0 for emotion in train["emotion"]))
    ):
        raise ValueError(
            f"train must have scored turns and the labels {labels}, but has {train.features['emotion'].names}."
        )
    _check_conversations(model, dataset)


def _check_conversations(model, dataset: Dataset) -> None:
    """Check the order of turns, and that speakers are given and fit into the memory."""
    latest: dict[str, int] = {}
    speakers: dict[str, dict[str, None]] = {}
    memory = model.config.memory_config
    columns = dataset.select_columns(["conversation_id", "turn_index", "speaker"]).to_dict()
    for row, (name, index, speaker) in enumerate(zip(*columns.values())):
        check_turn_index(index, latest.get(name, -1), name=f"row {row}, of {name!r},", each_once=True)
        latest[name] = index
        if memory.scope == "speaker":
            check_named([speaker], name=f"Row {row} of the dataset")
            speakers.setdefault(name, {})[speaker] = None
            check_speakers(speakers[name], memory.max_speakers, conversation=name)


def _score(scorer: TableScorer, group: Group, conditions: Sequence[str], *, strict: bool) -> dict:
    """All scores of a group, for the progress file."""
    scorer.load(group)
    if strict and scorer.not_scored:
        row, reason = next(iter(scorer.not_scored.items()))
        raise ValueError(f"{scorer.name_of(row)} cannot be used: {reason}")
    scores = {name: vars(ALL_CONDITIONS[name](scorer, group)) for name in conditions}
    rows = {turn.row for turn in group.turns}
    not_scored = {row: reason for row, reason in scorer.not_scored.items() if row in rows}
    processed = {row: scorer.processed_seconds[row] for row in sorted(rows & scorer.processed_seconds.keys())}
    cut = {row: scorer.seconds[row] for row, seconds in processed.items() if seconds < scorer.seconds[row]}
    return {"group": group.number, "not_scored": not_scored, "scores": scores, "processed": processed, "cut": cut}


@contextmanager
def _evaluating(model) -> Iterator[None]:
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


def _with_bar(groups: list[Group], *, shown: bool) -> Iterator[Group]:
    """The groups, with a progress bar on standard error that counts turns."""
    if not shown:
        return iter(groups)
    total = sum(len(group.turns) for group in groups)
    return with_progress(groups, total=total, description="turns", size=lambda group: len(group.turns))
