"""A Space for a model: an app that scores a conversation with and without memory, on the Hub or locally."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from jinja2 import Template

from .. import timeline_figure
from ..quickstart import CONVERSATION
from .model_card import TEMPLATES
from .publish import Publication, check_repo_id, create_repo, upload
from .repository import replace_text


# The version that the app was tested with.
GRADIO_VERSION = "6.31.0"
_FILES = ("README.md", "app.py", "requirements.txt", "timeline.py")
# Turns to click on, of the conversation that the demo analyses.
_EXAMPLES = ("turn_00_A.wav", "turn_01_B.wav", "turn_03_A.wav")


def write_space(folder: str | Path, repo_id: str, *, has_lora: bool = False) -> dict[str, Path]:
    """Write a Space for the model `repo_id` into a folder, which is created.

    Args:
        repo_id: repository of the model, or its folder for a local Space.
        has_lora: whether the model needs PEFT.

    Returns:
        The files, by their path in the Space.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    readme = Template(
        (TEMPLATES / "space" / "README.md.jinja").read_text(encoding="utf-8"), keep_trailing_newline=True
    )
    replace_text(folder / "README.md", readme.render(repo_id=repo_id, gradio_version=GRADIO_VERSION))
    app = (TEMPLATES / "space" / "app.py").read_text(encoding="utf-8")
    replace_text(folder / "app.py", app.replace('"{{ repo_id }}"', json.dumps(repo_id)))
    requirements = (TEMPLATES / "space" / "requirements.txt").read_text(encoding="utf-8")
    replace_text(folder / "requirements.txt", requirements + ("peft\n" if has_lora else ""))
    shutil.copyfile(timeline_figure.__file__, folder / "timeline.py")
    (folder / "examples").mkdir(exist_ok=True)
    for name in _EXAMPLES:
        shutil.copyfile(CONVERSATION / name, folder / "examples" / name)
    return {name: folder / name for name in (*_FILES, *(f"examples/{name}" for name in _EXAMPLES))}


def publish_space(
    space_id: str,
    repo_id: str,
    folder: str | Path,
    *,
    has_lora: bool = False,
    private: bool | None = None,
    dry_run: bool = False,
    token: str | bool | None = None,
) -> Publication:
    """Write a Space for a published model into a folder, and upload it in one commit.

    Args:
        space_id: "org/name" of the Space; created if it does not exist.
        repo_id: repository of the model.
        has_lora, private, dry_run, token: as for `write_space` and `publish_folder`.

    Raises:
        ValueError: for an invalid name.
    """
    check_repo_id(space_id)
    publication = Publication(write_space(folder, repo_id, has_lora=has_lora), [], [])
    if not dry_run:
        api = HfApi(token=token)
        space_id = create_repo(api, space_id, private, repo_type="space", space_sdk="gradio")
        message = f"An app for {repo_id}"
        publication.url = upload(api, space_id, publication.files, message=message, repo_type="space")
    return publication
