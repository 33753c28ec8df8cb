"""`titans-mal calibrate`: fit the temperature of a model, and find a threshold for a given accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from .messages import console, errors_in_one_line
from .options import (
    DataDir,
    EmoBox,
    Fold,
    LabelSet,
    SplitBy,
    SplitLonger,
    SplitSeed,
    TestShare,
    ValidationShare,
    labels_for,
)


def calibrate(
    model: Annotated[Path, typer.Argument(help="Folder of a model with memory, whose config.json is updated.")],
    data: Annotated[str, typer.Argument(help="A corpus, a folder with metadata.csv, or a Hub dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the scores. A stopped run resumes from it.")],
    data_dir: DataDir = None,
    label_set: LabelSet = None,
    fold: Fold = None,
    emobox: EmoBox = None,
    split_longer_than: SplitLonger = None,
    split_by: SplitBy = None,
    test_share: TestShare = None,
    validation_share: ValidationShare = None,
    split_seed: SplitSeed = 0,
    split: Annotated[
        str, typer.Option(help="Split to fit on. It must be used neither for training nor for testing.")
    ] = "dev",
    accuracy: Annotated[
        float | None,
        typer.Option(help="Also print the --unknown-below that gives this accuracy, from 0 to 1, on answered turns."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Number of turns scored at once.")] = 16,
    dtype: Annotated[str, typer.Option(help="Precision of the host: auto, float32, bfloat16 or float16.")] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable turn.")] = False,
) -> None:
    """Fit the temperature of a model's probabilities on a validation split, and write it into its configuration."""
    from transformers import AutoProcessor

    from titans_mal import AutoModelForAudioEmotion, load_conversations

    from ..evaluation import calibrate as calibrating
    from ..processes import end_processes, process_state

    with errors_in_one_line(SafetensorError):
        state = process_state()
        if not model.is_dir():
            raise ValueError(f"{model} is not a folder: give the folder of a model, whose config.json is updated.")
        loaded = AutoModelForAudioEmotion.from_pretrained(str(model), dtype=dtype)
        loaded.to(state.device)
        wanted = labels_for(data, data_dir, label_set, loaded.config.labels)
        with state.main_process_first():
            conversations = load_conversations(
                data,
                data_dir=data_dir,
                label_set=wanted,
                fold=fold,
                emobox=emobox,
                split_longer_than=split_longer_than,
                split_by=split_by,
                test_share=test_share,
                validation_share=validation_share,
                split_seed=split_seed,
                strict=strict,
            )
        if split not in conversations:
            raise ValueError(f"{data} has no split {split!r}; it has {list(conversations)}.")
        found = calibrating.calibrate(
            loaded,
            AutoProcessor.from_pretrained(model),
            conversations[split],
            output,
            batch_size=batch_size,
            strict=strict,
        )
        if state.is_main_process:
            calibrating.save_temperature(model, found.temperature)
            _print(found, accuracy)
        end_processes()


def _print(found, accuracy: float | None) -> None:
    for name, temperature in (("before", found.before), ("now", found.temperature)):
        numbers = found.numbers(temperature)
        console.print(
            f"{name}: temperature {temperature:.3f}, expected calibration error {100 * numbers['ece']:.1f} points, "
            f"log loss {numbers['log_loss']:.3f} over {len(found.references)} turns",
        )
    if accuracy is None:
        return
    point = found.threshold_for(accuracy)
    if point is None:
        console.print(f"No threshold reaches {accuracy:.0%} on this split.")
        return
    console.print(
        f"--unknown-below {point['threshold']:.4f} answers {point['coverage']:.0%} of the turns with an accuracy of "
        f"{point['accuracy']:.1%}",
    )
