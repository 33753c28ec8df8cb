"""`titans-mal publish`: publish the folder of a model as a Hub repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError

from .messages import console, errors_in_one_line, hub_errors


def publish(
    folder: Annotated[Path, typer.Argument(help="A folder written by save_pretrained.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository, created if it does not exist.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository. An existing one must already be private.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write the files into the folder and list them, without uploading anything."),
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Licence of the model, as a Hub identifier such as apache-2.0.")
    ] = None,
    force_license: Annotated[
        bool,
        typer.Option(
            "--force-license", help="Allow a licence for commercial use although a training corpus forbids that use."
        ),
    ] = False,
    language: Annotated[
        list[str] | None, typer.Option(help="Language of the speech, such as en. May be repeated.")
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Training dataset. May be repeated.")] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="Folder of an evaluation report of this model. May be repeated.")
    ] = None,
    example: Annotated[
        list[Path] | None,
        typer.Option(
            help="Audio file to publish together with the model's answer. Repeat it for the turns of a conversation."
        ),
    ] = None,
    space: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Also publish a Space for the model.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to upload to. Default: main.")] = None,
) -> None:
    """Upload model, processor, LoRA, code, card and endpoint handler in one commit.

    Only files that belong to the model are uploaded; the base of an adapter is never uploaded. Log in with
    `hf auth login` first.
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
        console.print(f"{path.stat().st_size:>13,}  {name}", soft_wrap=True)
    if publication.left_out:
        console.print(f"Not published: {', '.join(publication.left_out)}", soft_wrap=True)
    if publication.missing:
        console.print(f"Missing in the card: {', '.join(publication.missing)}", soft_wrap=True)
    if publication.url is None:
        console.print(f"Nothing was uploaded to {repo}.", soft_wrap=True)
    else:
        console.print(f"Published: {publication.url}", soft_wrap=True)
