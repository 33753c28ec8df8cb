"""The command `titans-mal`."""

import io
import sys
from typing import Annotated

import typer

from .. import __version__
from . import analyze, calibrate, data, demo, evaluate, publish, serve, space, train


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"titans-mal {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Recognise emotions in conversations with an audio language model that has a memory."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files and labels need not be what a terminal, or UTF-8, can show.
            stream.reconfigure(errors="backslashreplace")


app.command()(demo.demo)
app.command()(analyze.analyze)
app.command()(evaluate.evaluate)
app.command()(evaluate.compare)
app.command()(calibrate.calibrate)
app.command(context_settings=train.OPTIONS, add_help_option=False)(train.train)
app.command(context_settings=train.OPTIONS, add_help_option=False)(train.ablate)
app.command()(publish.publish)
app.command()(space.space)
app.command()(serve.serve)
app.add_typer(data.app, name="data")
