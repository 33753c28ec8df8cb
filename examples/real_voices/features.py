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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from compose import Script, scripts_of, voices_of_script
from corpus import Corpus, Scripts
from dialogues import FEWEST_SPEAKERS
from encoder_features import Copy, features_of
from feature_report import MODELS, RUN, is_of_this_version, percent, recalls_of, report, table
from options_file import check_options, fingerprints
from scored_dialogues import TestDialogues
from study import TRAINED, Part, choose, score_models
from transformers import AutoConfig
from voices import Voices, file_name_of

from titans_mal.cli.messages import errors_in_one_line
from titans_mal.modeling.atomic_files import replace_text, replacing


# What is saved of the test dialogues.
SAVED = ("emotions", "speakers", "dialogues", "has_partner", "partner_numbers", "from_training", "skipped")


def run_fold(
    train: Corpus, test: Corpus, *, fold: int, folds: Sequence[Sequence[int]], labels: int, scripts: Scripts,
    seeds: int, folder: Path,
) -> None:  # fmt: skip
    """Choose, train and score the models of a fold, or across corpora (fold 0), and keep what they have right."""
    across = train is not test
    tested = sorted(set(test.people)) if across else list(folds[fold - 1])
    rest = [speaker for speaker in sorted(set(train.people)) if across or speaker not in tested]
    path = folder / f"chosen_{fold}.json"
    # A file of an earlier version lacks the options of newer models.
    if not path.exists() or not {*TRAINED, "transitions"} <= {*json.loads(path.read_text())}:
        replace_text(path, json.dumps(choose(train, rest, folds, labels, scripts, seed=(fold, 0))) + "\n")
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
        saved = {
            **{f"right_{name}": hits for name, hits in right.items()},
            **{name: np.asarray(getattr(dialogues, name)) for name in SAVED},
        }
        path = _path(folder, fold, seed)
        # Another process may read the folder.
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(file, **saved)
        recalls = ", ".join(f"{name} {percent(recall)}" for name, recall in recalls_of(saved).items())
        print(f"fold {fold}, seed {seed}: {recalls}", flush=True)


def _path(folder: Path, fold: int, seed: int) -> Path:
    return folder / f"right_{fold}_{seed}.npz"


def _is_saved(folder: Path, fold: int, seed: int) -> bool:
    """Whether a fold and seed are saved with all models; a file of an earlier version lacks some."""
    path = _path(folder, fold, seed)
    return path.exists() and {*SAVED, *(f"right_{name}" for name in MODELS)} <= set(np.load(path).files)


def _join_reports(output: Path) -> dict[str, list]:
    """Write the reports of all runs in the folder into one file, and return them."""
    parts = [json.loads(path.read_text()) for path in sorted(output.glob("*/part.json"))]
    # A run of an earlier version may be in a folder of another name.
    by_run = {tuple(part["pooled"][0][key] for key in RUN): part for part in parts if is_of_this_version(part)}
    parts = [*by_run.values()]
    results = {key: [entry for of in parts for entry in of[key]] for key in parts[0]}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def numbers_of(text: str | None, allowed: range, option: str) -> list[int]:
    """The comma-separated numbers of an option; None: all that are allowed.

    Raises:
        typer.BadParameter: for others.
    """
    parts = [part.strip() for part in text.split(",")] if text else [str(number) for number in allowed]
    if not all(part.isdecimal() and int(part) in allowed for part in parts):
        raise typer.BadParameter(f"{option} must be numbers in {allowed[0]}..{allowed[-1]}, got {text}.")
    return [int(part) for part in parts]


def check_voices(trained: Voices, tested: Voices) -> None:
    """Print what the corpora contain, and check that they have the same labels and no common recordings.

    Raises:
        typer.BadParameter: naming what is wrong.
    """
    for voices in [trained] if tested is trained else [trained, tested]:
        print(voices)
    if len(trained.labels) < 2:
        raise typer.BadParameter(f"Two labels are needed, but {trained.name} has {trained.labels}.")
    if tested.labels != trained.labels:
        raise typer.BadParameter(
            f"{trained.name} has the labels {trained.labels}, but {tested.name} has {tested.labels}: give --labels "
            "that both have."
        )
    if tested is trained:
        return
    common = {*trained.checksums} & {*tested.checksums}
    if common:
        raise typer.BadParameter(f"{len(common)} recordings are in both --voices and --test-voices.")
    if speakers := sorted({*trained.speakers} & {*tested.speakers}):
        print(f"Warning: --voices and --test-voices have speakers of the same names: {speakers}.")
    if len(tested.speakers) < FEWEST_SPEAKERS:
        raise typer.BadParameter(
            f"A dialogue needs {FEWEST_SPEAKERS} speakers, but {tested.name} has {tested.speakers}."
        )


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
    seeds: Annotated[int, typer.Option(min=1, help="Number of random seeds with which each model is trained.")] = 3,
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
    names = [name.strip() for name in labels.split(",")] if labels else None
    trained = voices_of_script(voices, script, names)
    tested = voices_of_script(test_voices, script, names) if test_voices else trained
    check_voices(trained, tested)
    words = trained.labels
    chosen_folds = [0]  # the number of a test on another corpus
    if not test_voices:
        trained.check_folds()
        chosen_folds = numbers_of(folds, range(1, len(trained.folds) + 1), "--folds")
    elif folds:
        raise typer.BadParameter("--folds are those of a test on the same corpus: omit it with --test-voices.")
    used = None
    if blocks:
        used = numbers_of(blocks, range(AutoConfig.from_pretrained(whisper).encoder_layers + 1), "--blocks")
    pieces = scripts_of(sequences, words, required=("train", "test")) if sequences else {}
    about = {"train": trained.name, "test": tested.name, "script": str(script), "blocks": blocks or "all",
             "copies": f"{virtual_voices}-{virtual_channels}"}  # fmt: skip
    folder = output / file_name_of("_".join(about.values()))
    made_with = {
        "whisper": whisper,
        "voices": voices,
        "test_voices": test_voices,
        "labels": words,
        "sequences": sequences,
    }
    check_options(folder / "options.json", made_with | fingerprints(trained, tested, sequences=sequences or []))
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
    scripts = Scripts(pieces.get("train"), pieces.get("test"))
    speakers = [[trained.speakers.index(name) for name in fold] for fold in trained.folds]
    for fold in chosen_folds:
        run_fold(
            train, test, fold=fold, folds=speakers, labels=len(words), scripts=scripts, seeds=seeds, folder=folder
        )
    saved = {
        fold: [dict(np.load(_path(folder, fold, seed))) for seed in range(seeds)]
        for fold in ([0] if test_voices else range(1, len(trained.folds) + 1))
        if all(_is_saved(folder, fold, seed) for seed in range(seeds))
    }
    (folder / "part.json").write_text(json.dumps(report(saved, about, tested)) + "\n")
    print(table(_join_reports(output)))


if __name__ == "__main__":
    typer.run(errors_in_one_line()(main))
