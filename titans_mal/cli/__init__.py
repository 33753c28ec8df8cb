"""The command `titans-mal`."""

import typer

from . import analyze, calibrate, data, evaluate, publish, serve, space, train


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Recognise emotions in conversations with an audio language model that has a memory."""


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
