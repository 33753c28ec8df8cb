"""`titans-mal publish`: a model's folder becomes a repository of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from .messages import console, errors_in_one_line, hub_errors


def publish(
    folder: Annotated[Path, typer.Argument(help="That save_pretrained wrote.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; made if it does not exist.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; one that is there must be.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder, list it, and upload nothing.")] = False,
    license: Annotated[str | None, typer.Option(help="An identifier of the Hub: apache-2.0.")] = None,
    force_license: Annotated[
        bool, typer.Option("--force-license", help="Also where a training corpus is for non-commercial use only.")
    ] = False,
    language: Annotated[list[str] | None, typer.Option(help="Of the speech: en. Several times for several.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="It was trained on; several times for several.")] = None,
    report: Annotated[list[Path] | None, typer.Option(help="Folder of an evaluation report of this model.")] = None,
    example: Annotated[
        list[Path] | None,
        typer.Option(help="A sound file to publish, with the model's answer; in order, of one talk."),
    ] = None,
    space: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Publish a Space for the model as well.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch.")] = None,
) -> None:
    """Upload model, processor, LoRA, code, card and endpoint handler in one commit.

    Of the folder, only the files of the model by name; of an adapter, never the base. The token is that of `hf auth
    login`.
    """
    from ..publishing import publish_folder, publish_space
    from ..publishing.publish import check_repo_id

    with errors_in_one_line(SafetensorError, RuntimeError, *hub_errors()):
        if space is not None:
            check_repo_id(space)
        publication = publish_folder(
            folder,
            repo,
            private=private or None,
            dry_run=dry_run,
            revision=revision,
            license=license,
            force_license=force_license,
            language=language or (),
            datasets=dataset or (),
            reports=report or (),
            examples=example or (),
        )
        _print(publication, repo)
        if space is not None:
            has_lora = "lora/adapter_config.json" in publication.files
            published = publish_space(
                space, repo, folder / "space", has_lora=has_lora, private=private or None, dry_run=dry_run
            )
            _print(published, f"spaces/{space}")


def _print(publication, repo: str) -> None:
    for name, path in publication.files.items():
        console.print(f"{path.stat().st_size:>13,}  {name}", markup=False, soft_wrap=True)
    if publication.left_out:
        console.print(f"Left out: {', '.join(publication.left_out)}", markup=False, soft_wrap=True)
    if publication.missing:
        console.print(f"The card does not state: {', '.join(publication.missing)}", markup=False, soft_wrap=True)
    if publication.url is None:
        console.print(f"Nothing was uploaded to {repo}.", markup=False, soft_wrap=True)
    else:
        console.print(f"Published: {publication.url}", markup=False, soft_wrap=True)
