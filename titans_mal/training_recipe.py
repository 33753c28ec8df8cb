"""`training_recipe.json`: how a model was trained, as its training wrote it beside the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path


RECIPE_FILE = "training_recipe.json"
# In a recipe: the licence of each corpus that was trained on, by its name.
LICENCES = "licences"


def read_recipe(folder: Path) -> dict[str, object]:
    """How a model was trained, as its training wrote it beside the weights; empty where nothing is said.

    Raises:
        ValueError: if it is no table of names and values.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return {}
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold names and values, got {type(recipe).__name__}.")
    return recipe


def check_licence(recipe: Mapping[str, object], license: str | None) -> None:
    """Refuse a licence that allows commercial use of what was trained on a corpus that does not.

    Args:
        recipe: of the model; its `licences` name the corpora, as `{"ravdess": "CC BY-NC-SA 4.0"}`.
        license: that the model is to be published under, an identifier of the Hub.

    Raises:
        ValueError: naming the corpora.
    """
    stated = recipe.get(LICENCES)
    licences = stated if isinstance(stated, Mapping) else {}
    pattern = re.compile(r"\bnc\b|non-?commercial", re.IGNORECASE)
    restricted = {name: text for name, text in licences.items() if pattern.search(str(text))}
    if restricted and not pattern.search(license or ""):
        raise ValueError(
            f"The model was trained on {restricted}, for non-commercial use only; its licence would be {license!r}. "
            "Give one with 'nc', such as cc-by-nc-sa-4.0, or force it where you have other rights."
        )
