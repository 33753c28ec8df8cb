"""The host of a model that was saved in full, without its memory: a base for `--base-model` that needs no Hub.

python examples/finetune/plain_host.py host
titans-mal ablate --base-model host --memory-layers 0 1 --memory-layers 2 --dataset synthetic-baseline --output-dir out
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion


TINY = Path(__file__).parents[1] / "quickstart" / "tiny-qwen2-audio-mal"


def main(
    output: Annotated[Path, typer.Argument(help="Folder for the host and its processor.")],
    model: Annotated[str, typer.Option(help="Model with memory that was saved in full.")] = str(TINY),
) -> None:
    """Write the host of a model, as it is without memory."""
    with_memory = AutoModelForAudioEmotion.from_pretrained(model)
    host_class = type(with_memory).host_class()
    names = {field.name for field in fields(host_class.config_class)}
    given = {name: value for name, value in with_memory.config.to_dict().items() if name in names}
    # How the model with memory is found and named is nothing of its host's.
    host = host_class(host_class.config_class(**given | {"architectures": None}))
    of_host = set(host.state_dict())
    host.load_state_dict({name: tensor for name, tensor in with_memory.state_dict().items() if name in of_host})
    host.generation_config = with_memory.generation_config
    host.save_pretrained(output)
    AutoProcessor.from_pretrained(model).save_pretrained(output)
    print(f"{type(host).__name__} of {host.num_parameters():,} parameters: {output}")


if __name__ == "__main__":
    typer.run(main)
