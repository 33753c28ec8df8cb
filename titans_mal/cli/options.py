"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


Model = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_REPO",
        help="Folder or Hub repo of a model with memory. Default: the demo's checkpoint, trained on synthetic voices.",
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder with your copy of the corpus.")]
LabelSet = Annotated[
    str | None,
    typer.Option(
        help="A label set of the corpus (4-class), a list of labels (sad,happy), or a mapping (excited=happy,sad=sad)."
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(help="Draw splits for data without splits: by 'conversation' or by 'speaker', which never overlap."),
]
TestShare = Annotated[float | None, typer.Option(help="Share of the turns in the test split, for --split-by: 0.2")]
ValidationShare = Annotated[
    float | None, typer.Option(help="Share of the turns in the validation split, for --split-by: 0.1")
]
SplitSeed = Annotated[int, typer.Option(help="Random seed of --split-by.")]
Fold = Annotated[int | None, typer.Option(help="Number of the test fold, from 1.")]

SplitLonger = Annotated[
    float | None,
    typer.Option("--split-longer-than", help="Seconds: a longer file becomes several turns, cut at its pauses."),
]
EmoBox = Annotated[Path | None, typer.Option("--emobox", help="A clone of EmoBox, whose --fold gives the splits.")]


def as_label_set(given: str | None) -> str | Sequence[str] | dict[str, str] | None:
    """Parse --label-set into an argument for `load_conversations`.

    Raises:
        ValueError: for a mapping with a word that has no label.
    """
    if given is None or ("," not in given and "=" not in given):
        return given
    parts = [part.strip() for part in given.split(",")]
    if "=" not in given:
        return parts
    pairs = [part.split("=", 1) for part in parts]
    without = [pair[0] for pair in pairs if len(pair) < 2 or not pair[1]]
    if without:
        raise ValueError(f"In a mapping, every word needs a label, as in excited=happy; {without} have none.")
    return {word.strip(): label.strip() for word, label in pairs}


def labels_for(data: str, data_dir: Path | None, label_set: str | None, labels: Sequence[str]):
    """The label set for a model's data: the given one, else the model's labels if the data has no named label sets."""
    from ..data.synthetic import NAMED_SUITES

    wanted = as_label_set(label_set)
    has_names = data_dir is not None or data in NAMED_SUITES
    return list(labels) if wanted is None and not has_names else wanted
