"""The feature form: does a memory of voices help on human voices, behind a frozen Whisper encoder?

    python examples/real_voices/features.py --voices RAVDESS --whisper openai/whisper-tiny.en --output OUT
    python examples/real_voices/features.py --voices RAVDESS --whisper ... --output OUT --sequences MELD_TRAIN.csv \\
        --sequences MELD_TEST.csv
    python examples/real_voices/features.py --voices RAVDESS --whisper ... --output OUT --test-voices EMODB \\
        --labels neutral,happy,sad,angry

Each fold and seed is saved when it is done; the same command resumes an interrupted run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from compose import Script, scripts_of, voices_of_script
from corpus import Corpus, Scripts
from encoder_features import Copy, features_of
from intervals import ScoredTurns, average_recall, in_points, paired_difference
from options_file import check_options
from scipy.stats import wilcoxon
from study import Part, TestDialogues, choose, score_models
from voices import Voices


MODELS = (
    "utterance",
    "running_mean",
    "memory",
    "memory_reset",
    "memory_other",
    "memory_speaker",
    "attention_8",
    "transitions",
    "memory_transitions",
    "memory_transitions_other",
    "network",
    "memory_network",
    "memory_network_reset",
    "memory_network_other",
)
# A dialogue without a partner has no other history to be compared with.
OF_PARTNERS = {"memory_other", "memory_transitions_other", "memory_network_other"}
# Of `results.json`, what the table of groups is made of.
KINDS = ("groups", "rows")
# What is subtracted from what, in the table of differences.
DIFFERENCES = (
    ("memory", "utterance"),
    ("memory", "memory_reset"),
    ("memory", "memory_other"),
    ("memory_reset", "utterance"),
    ("memory_other", "utterance"),
    ("memory", "running_mean"),
    ("memory", "transitions"),
    ("memory_speaker", "running_mean"),
    ("memory_speaker", "utterance"),
    ("running_mean", "utterance"),
    ("attention_8", "utterance"),
    ("transitions", "utterance"),
    ("memory_transitions", "utterance"),
    ("memory_transitions", "transitions"),
    ("memory_transitions", "memory"),
    ("memory_transitions", "memory_reset"),
    ("memory_transitions", "memory_transitions_other"),
    ("memory_transitions_other", "utterance"),
    ("network", "utterance"),
    ("memory", "network"),
    ("memory_network", "network"),
    ("memory_network", "utterance"),
    ("memory_network", "memory_network_reset"),
    ("memory_network", "memory_network_other"),
    ("memory_network_reset", "network"),
    ("memory_network_other", "network"),
)


def run_fold(
    train: Corpus, test: Corpus, *, fold: int, folds: Sequence[Sequence[int]], labels: int, scripts: Scripts,
    seeds: int, folder: Path,
) -> None:  # fmt: skip
    """Choose, train and score the models of a fold, or across corpora (fold 0), and keep what they have right."""
    across = train is not test
    tested = sorted(set(test.people)) if across else list(folds[fold - 1])
    rest = [speaker for speaker in sorted(set(train.people)) if across or speaker not in tested]
    path = folder / f"chosen_{fold}.json"
    if not path.exists():
        path.write_text(json.dumps(choose(train, rest, folds, labels, scripts, seed=(fold, 0))) + "\n")
    chosen = json.loads(path.read_text())
    for seed in range(seeds):
        if _is_saved(folder, fold, seed):
            continue
        part = Part(train, rest, labels, scripts, seed=(fold, 1, seed))
        # The same dialogues for every seed.
        dialogues = TestDialogues(
            test, tested, scripts.test, part.project(test), seed=(fold, 2), others=() if across else rest,
            partner_seed=(seed,),
        )  # fmt: skip
        right = score_models(part, dialogues, chosen, seed=(fold, 3, seed))
        about = {
            "emotions": dialogues.emotions,
            "speakers": dialogues.speakers,
            "dialogues": dialogues.dialogues,
            "has_partner": dialogues.has_partner,
            "partners": dialogues.partner_numbers,
            "from_training": dialogues.from_training,
            "skipped": dialogues.skipped,
        }
        np.savez(_path(folder, fold, seed), **{f"right_{name}": hits for name, hits in right.items()}, **about)
        recalls = recalls_of({**about, **{f"right_{name}": hits for name, hits in right.items()}})
        print(f"fold {fold}, seed {seed}: " + ", ".join(f"{n} {_percent(r)}" for n, r in recalls.items()), flush=True)


def _path(folder: Path, fold: int, seed: int) -> Path:
    return folder / f"right_{fold}_{seed}.npz"


def _is_saved(folder: Path, fold: int, seed: int) -> bool:
    """Whether a fold and seed are saved with all models; a file of an earlier version lacks some."""
    path = _path(folder, fold, seed)
    return path.exists() and {f"right_{name}" for name in MODELS} <= set(np.load(path).files)


def _found(folder: Path, folds: Sequence[int], seeds: int) -> Iterator[tuple[int, list[dict]]]:
    for fold in folds:
        yield fold, [dict(np.load(_path(folder, fold, seed))) for seed in range(seeds)]


def report(folder: Path, folds: Sequence[int], seeds: int, about: dict, voices: Voices) -> dict:
    """`rows` for each model, fold and seed, `differences` pooled over both, and the recall of each speaker."""
    found = list(_found(folder, folds, seeds))
    turns = ScoredTurns.join(
        [ScoredTurns(*(of[0][k] for k in ("emotions", "speakers", "dialogues"))) for _, of in found]
    )
    right = {
        name: np.concatenate([np.stack([seed[f"right_{name}"] for seed in of]) for _, of in found], axis=1)
        for name in MODELS
    }
    recalls = {(fold, number): recalls_of(seed) for fold, of in found for number, seed in enumerate(of)}
    rows = [
        {"listener": name, **about, "fold": fold, "seed": number, "turns": len(seed["emotions"]),
         "uar": recalls[fold, number][name], "conversations": len(set(seed["dialogues"].tolist()))}
        for name in right for fold, of in found for number, seed in enumerate(of)
    ]  # fmt: skip
    has_partner = np.concatenate([has_partner_of(of[0]) for _, of in found])
    differences = []
    for name, over in DIFFERENCES:
        kept = has_partner if OF_PARTNERS & {name, over} else np.ones_like(has_partner)
        points = low = high = None
        if kept.any():
            points, low, high = paired_difference(right[name][:, kept], right[over][:, kept], turns.only(kept))
        differences.append({"listener": name, "over": over, **about, "points": points, "low": low, "high": high})
    gender = {utterance.speaker: utterance.gender for utterance in voices.utterances}
    numbers = np.concatenate([of[0]["speakers"] for _, of in found])
    names = np.array(voices.speakers)[numbers]
    groups = []
    for kind, values in (("speaker", names), ("gender", np.array([gender[name] for name in names]))):
        for value in sorted(set(values) - {""}):
            is_in = values == value
            of_group = {n: _recall(n, hits, turns.emotions, is_in, has_partner) for n, hits in right.items()}
            groups.append({"kind": kind, "group": str(value), **about, "turns": int(is_in.sum()), "uar": of_group})
    everything = np.ones_like(has_partner)
    pooled = {name: _recall(name, hits, turns.emotions, everything, has_partner) for name, hits in right.items()}
    counts = {
        "dialogues": sum(len(of[0]["has_partner"]) for _, of in found),
        "skipped": sum(int(of[0]["skipped"]) for _, of in found),
        "dialogues_without_other_history": sum(int((~of[0]["has_partner"]).sum()) for _, of in found),
        "other_histories_of_training_speakers": sum(int(of[0]["from_training"].sum()) for _, of in found),
        "different_other_histories": sum(
            len({*np.concatenate([seed["partners"] for seed in of]).tolist()} - {-1}) for _, of in found
        ),
    }
    found_all = {"rows": rows, "differences": differences, "groups": groups}
    return {**found_all, "pooled": [{**about, "folds": len(found), "uar": pooled, **counts}]}


def has_partner_of(seed: Mapping[str, np.ndarray]) -> np.ndarray:
    """(scored turns,) bool: whether the turn's dialogue has another one to take the history from."""
    return seed["has_partner"][seed["dialogues"]]


def recalls_of(seed: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """The recall of each model in one fold with one seed; None where no turn can be scored."""
    has_partner = has_partner_of(seed)
    everything = np.ones_like(has_partner)
    return {name: _recall(name, seed[f"right_{name}"], seed["emotions"], everything, has_partner) for name in MODELS}


def _recall(
    name: str, is_right: np.ndarray, emotions: np.ndarray, is_in: np.ndarray, has_partner: np.ndarray
) -> float | None:
    """Recall over some turns; models with another dialogue's history have no recall without one."""
    kept = is_in & has_partner if name in OF_PARTNERS else is_in
    return float(average_recall(np.atleast_2d(is_right)[:, kept], emotions[kept])[0]) if kept.any() else None


def table(results: dict) -> str:
    """The pooled recalls and differences as Markdown."""
    lines = []
    for pooled in results["pooled"]:
        run = ("train", "test", "script", "blocks", "copies")
        name = f"{pooled['train']} to {pooled['test']}, {pooled['script']} emotions, blocks {pooled['blocks']}"
        name += f", copies {pooled['copies']}"
        counts = (
            f"{pooled['dialogues']} dialogues of {pooled['folds']} folds; {pooled['skipped']} scripts needed an "
            "utterance twice and were skipped. Other histories: "
            f"{pooled['different_other_histories']} different dialogues; those of "
            f"{pooled['other_histories_of_training_speakers']} dialogues are of training speakers, and "
            f"{pooled['dialogues_without_other_history']} dialogues have none."
        )
        lines += [f"\n{name}\n", counts, ""]
        lines += ["| model | UAR, % |", "| --- | ---: |"]
        lines += [f"| {model} | {_percent(recall)} |" for model, recall in pooled["uar"].items()]
        lines += ["", "| difference | points (95 % interval) |", "| --- | ---: |"]
        lines += [
            f"| {row['listener']} - {row['over']} | {_points(row)} |"
            for row in results["differences"]
            if all(row[key] == pooled[key] for key in run)
        ]
        of_run = {kind: [row for row in results[kind] if all(row[k] == pooled[k] for k in run)] for kind in KINDS}
        lines += ["", *_groups(**of_run)]
    return "\n".join(lines)


def _groups(groups: Sequence[dict], rows: Sequence[dict]) -> list[str]:
    """The recalls of genders, of the worst speaker and of the one who loses most, and the gain in each fold."""
    recalls = {row["group"]: row["uar"] for row in groups}
    gains = {name: recall["memory"] - recall["utterance"] for name, recall in recalls.items()}
    speakers = [row["group"] for row in groups if row["kind"] == "speaker"]
    shown = [row["group"] for row in groups if row["kind"] == "gender"]
    shown += [min(speakers, key=lambda name: recalls[name]["utterance"]), min(speakers, key=lambda name: gains[name])]
    lines = ["| group | utterance | memory |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {_percent(recalls[name]['utterance'])} | {_percent(recalls[name]['memory'])} |" for name in shown
    ]
    of_speakers = np.array([gains[name] for name in speakers])
    chance = wilcoxon(of_speakers).pvalue if of_speakers.any() else 1.0
    lines += ["", f"{(of_speakers > 0).sum()} of {len(speakers)} speakers gain (Wilcoxon's test: p = {chance:.3f})."]
    for fold in dict.fromkeys(row["fold"] for row in rows):
        of_fold = [row for row in rows if row["fold"] == fold]
        utterance, memory = (
            np.mean([row["uar"] for row in of_fold if row["listener"] == name]) for name in ("utterance", "memory")
        )
        lines.append(f"Fold {fold}: utterance {_percent(utterance)}, memory {100 * (memory - utterance):+.1f} points.")
    return lines


def _percent(recall: float | None) -> str:
    return "-" if recall is None else f"{100 * recall:.1f}"


def _points(row: dict) -> str:
    if row["points"] is None:
        return "-"
    return in_points(row["points"], row["low"], row["high"])


def main(
    voices: Annotated[
        Path,
        typer.Option(
            help="Folder of RAVDESS or EmoDB, or with a metadata.csv of the columns file_name, speaker, emotion."
        ),
    ],
    whisper: Annotated[str, typer.Option(help="Folder or Hub repo of a Whisper checkpoint, whose encoder is used.")],
    output: Annotated[Path, typer.Option(help="Folder for features and results. A stopped run resumes from it.")],
    folds: Annotated[
        str | None, typer.Option(help="Comma-separated numbers of the folds to run, counted from 1. Default: all.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of random seeds with which each model is trained.")] = 3,
    sequences: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of MELD, or a table with the columns split, dialogue, turn, speaker, emotion, whose emotion "
            "sequences the dialogues follow. May be repeated. Default: random emotions."
        ),
    ] = None,
    test_voices: Annotated[
        Path | None, typer.Option(help="Folder of voices to test on; all of --voices are then trained on.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Comma-separated emotions to keep. Default: all.")] = None,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated numbers of the encoder outputs to use; 0 is the input of the first block. "
            "Default: all."
        ),
    ] = None,
    virtual_voices: Annotated[
        int, typer.Option(help="Number of copies of each training speaker in another voice.")
    ] = 4,
    virtual_channels: Annotated[
        int, typer.Option(help="Number of copies of each training speaker through another channel.")
    ] = 0,
) -> None:
    """Train and score the models; print the tables, and write OUT/results.json."""
    torch.set_num_threads(1)
    script = Script.SEQUENCES if sequences else Script.RANDOM
    names = labels.split(",") if labels else None
    trained = voices_of_script(voices, script, names)
    tested = voices_of_script(test_voices, script, names) if test_voices else trained
    words = trained.labels
    if tested.labels != words:
        raise typer.BadParameter(
            f"{trained.name} has the labels {words}, but {tested.name} has {tested.labels}: give --labels that both "
            "have."
        )
    numbers = range(1, len(trained.folds) + 1)
    chosen_folds = [int(fold) for fold in folds.split(",")] if folds else [*numbers]
    if not set(chosen_folds) <= set(numbers):
        raise typer.BadParameter(f"--folds must be in 1..{len(numbers)} for {trained.name}, got {folds}.")
    used = [int(block) for block in blocks.split(",")] if blocks else None
    of_copy = partial(features_of, trained, whisper, output / "features", used)
    train = Corpus.of(
        of_copy(),
        *trained.arrays(words),
        voices=[of_copy(copy=Copy("voice", number + 1)) for number in range(virtual_voices)],
        channels=[of_copy(copy=Copy("channel", number + 1)) for number in range(virtual_channels)],
    )
    test = train
    if test_voices:
        test = Corpus.of(features_of(tested, whisper, output / "features", used), *tested.arrays(words))
    pieces = scripts_of(sequences, words, required=("train", "test")) if sequences else {}
    scripts = Scripts(pieces.get("train"), pieces.get("test"))
    chosen_folds = [0] if test_voices else chosen_folds
    speakers = [[trained.speakers.index(name) for name in fold] for fold in trained.folds]
    about = {"train": trained.name, "test": tested.name, "script": str(script), "blocks": blocks or "all",
             "copies": f"{virtual_voices}-{virtual_channels}"}  # fmt: skip
    folder = output / "_".join(about.values())
    folder.mkdir(parents=True, exist_ok=True)
    made_with = {
        "whisper": whisper, "voices": str(voices), "test_voices": str(test_voices or ""), "labels": words,
        "sequences": [str(path) for path in sequences or ()],
    }  # fmt: skip
    check_options(folder / "options.json", made_with)
    for fold in chosen_folds:
        run_fold(
            train, test, fold=fold, folds=speakers, labels=len(words), scripts=scripts, seeds=seeds, folder=folder
        )
    done = [
        fold for fold in ([0] if test_voices else numbers) if all(_is_saved(folder, fold, s) for s in range(seeds))
    ]
    (folder / "part.json").write_text(json.dumps(report(folder, done, seeds, about, tested)) + "\n")
    parts = [json.loads(path.read_text()) for path in sorted(output.glob("*/part.json"))]
    results = {key: [entry for of in parts for entry in of[key]] for key in parts[0]}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
