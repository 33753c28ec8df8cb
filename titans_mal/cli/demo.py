"""`titans-mal demo`: what the memory does, in a minute and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import errors_in_one_line


def demo(
    output: Annotated[
        Path, typer.Option(help="The folder that timeline.png is written to. Default: the current one.")
    ] = Path(),
) -> None:
    """Analyse the shipped conversation of made-up voices with the tiny checkpoint, with memory and without."""
    with errors_in_one_line():
        if not output.is_dir():
            raise NotADirectoryError(f"--output {output} is no folder.")
        from ..quickstart.demo import main

        main(output)
