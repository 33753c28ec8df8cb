"""The command `titans-mal`."""

import typer

from .analyze import analyze
from .data import data_app
from .evaluate import compare, evaluate


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Emotions in conversations, heard by an audio language model with memory."""


app.command()(analyze)
app.command()(evaluate)
app.command()(compare)
app.add_typer(data_app, name="data")
