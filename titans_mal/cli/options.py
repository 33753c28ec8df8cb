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
        help="Folder or Hub repo of a model with memory. Default: the checkpoint of `titans-mal demo`, which was "
        "trained on synthetic voices.",
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder with your copy of the corpus.")]
LabelSet = Annotated[
    str | None,
    typer.Option(
        help="Labels to use: the name of a label set of the corpus, as in 4-class; a list, as in sad,happy; or a "
        "mapping, as in excited=happy,sad=sad."
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        help="Split data that has no splits at random: 'conversation' or 'speaker'. No conversation, or no speaker, "
        "is in two splits."
    ),
]
TestShare = Annotated[
    float | None, typer.Option(help="With --split-by: share of the turns in the test split, as in 0.2.")
]
ValidationShare = Annotated[
    float | None, typer.Option(help="With --split-by: share of the turns in the validation split, as in 0.1.")
]
SplitSeed = Annotated[int, typer.Option(help="Random seed of --split-by.")]
Fold = Annotated[int | None, typer.Option(help="Number of the fold that is the test split, counted from 1.")]

SplitLonger = Annotated[
    float | None,
    typer.Option(
        "--split-longer-than",
        help="Split every audio file longer than this many seconds into several turns, at its pauses.",
    ),
]
EmoBox = Annotated[
    Path | None, typer.Option("--emobox", help="Folder of a clone of EmoBox, which defines the splits of each --fold.")
]


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
        raise ValueError(f"Every word of a mapping needs a label, as in excited=happy, but {without} have none.")
    return {word.strip(): label.strip() for word, label in pairs}


def labels_for(data: str, data_dir: Path | None, label_set: str | None, labels: Sequence[str]):
    """The label set for a model's data: the given one, else the model's labels if the data has no named label sets."""
    from ..data.synthetic import NAMED_SUITES

    wanted = as_label_set(label_set)
    has_names = data_dir is not None or data in NAMED_SUITES
    return list(labels) if wanted is None and not has_names else wanted
