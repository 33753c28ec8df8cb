"""`titans-mal demo`: show the effect of the memory in a minute, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import errors_in_one_line


def demo(
    output: Annotated[Path, typer.Option(help="Folder for timeline.png. Default: the current folder.")] = Path(),
) -> None:
    """Analyse the included conversation of synthetic voices with the tiny checkpoint, with and without memory."""
    with errors_in_one_line():
        if not output.is_dir():
            raise NotADirectoryError(f"--output must be an existing folder, got {output}.")
        from ..quickstart.demo import main

        main(output)
