"""`titans-mal space`: run the app of a model's Space on this machine."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from typing import Annotated

import typer
from safetensors import SafetensorError

from .analyze import tiny_checkpoint
from .messages import errors_in_one_line
from .options import Model


def space(
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port to listen on. Default: the first free one from 7860.")
    ] = None,
) -> None:
    """Open an app that scores uploaded or recorded turns with and without memory."""
    from transformers import AutoProcessor

    from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion

    from ..publishing import write_space

    with errors_in_one_line(SafetensorError):
        if importlib.util.find_spec("gradio") is None:
            raise ValueError("The app needs gradio: pip install 'titans_mal[space]'")
        name = model or tiny_checkpoint()
        loaded = AutoModelForAudioEmotion.from_pretrained(name)
        pipe = AudioEmotionPipeline(model=loaded, processor=AutoProcessor.from_pretrained(name))
        with tempfile.TemporaryDirectory() as folder:
            # The same files as on the Hub.
            write_space(folder, name)
            sys.path.insert(0, folder)
            importlib.import_module("app").launch(pipe, server_name=host, server_port=port)
