"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer


Model = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_REPO",
        help="A model with memory. Default: in a clone, the tiny checkpoint of the quickstart.",
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Where your copy of a corpus lies.")]
LabelSet = Annotated[
    str | None,
    typer.Option(
        help="A label set of the corpus (4-class), labels (sad,happy), or a mapping (excited=happy,sad=sad)."
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(help="Draw splits of data that has none: by conversation, or by speaker, none in two of them."),
]
TestShare = Annotated[float | None, typer.Option(help="Of the turns, for --split-by: 0.2")]
ValidationShare = Annotated[float | None, typer.Option(help="Of the turns, for --split-by: 0.1")]
SplitSeed = Annotated[int, typer.Option(help="Of --split-by.")]
Fold = Annotated[int | None, typer.Option(help="The fold that is tested; 1, 2, ...")]


def as_label_set(given: str | None) -> str | Sequence[str] | dict[str, str] | None:
    """What `load_conversations` takes, of what was typed.

    Raises:
        ValueError: for a mapping in which a word has no label.
    """
    if given is None or ("," not in given and "=" not in given):
        return given
    parts = [part.strip() for part in given.split(",")]
    if "=" not in given:
        return parts
    pairs = [part.split("=", 1) for part in parts]
    without = [pair[0] for pair in pairs if len(pair) < 2 or not pair[1]]
    if without:
        raise ValueError(f"In a mapping every word has a label, as in excited=happy; {without} have none.")
    return {word.strip(): label.strip() for word, label in pairs}


def labels_for(data: str, data_dir: Path | None, label_set: str | None, labels: Sequence[str]):
    """What `load_conversations` takes for a model's data: what was typed, else the model's labels for data that has no
    label sets by name."""
    from ..data.synthetic import NAMED_SUITES

    wanted = as_label_set(label_set)
    has_names = data_dir is not None or data in NAMED_SUITES
    return list(labels) if wanted is None and not has_names else wanted
