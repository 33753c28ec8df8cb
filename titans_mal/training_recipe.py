"""`training_recipe.json`: how a model was trained, as its training wrote it beside the weights."""

from __future__ import annotations

import json
from pathlib import Path


RECIPE_FILE = "training_recipe.json"


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
