"""`training_recipe.json`: how a model was trained, written by its training beside the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .data.corpora import CORPORA
from .modeling.json_text import read_json


RECIPE_FILE = "training_recipe.json"
# Field of a recipe: the licence of each training corpus, by the corpus' name.
LICENCES = "licences"


def read_recipe(folder: Path) -> dict[str, object]:
    """The training recipe of the model in a folder; empty if there is none.

    Raises:
        ValueError: if it is not a JSON object.
    """
    path = folder / RECIPE_FILE
    return {} if not path.is_file() else read_json(path, dict)


def licences_of(recipe: Mapping[str, object], datasets: Iterable[str] = ()) -> dict[str, str]:
    """The licences of the training corpora that are known, by corpus.

    Args:
        recipe: recipe of the model: its `dataset`, and its `licences`, such as `{"own-corpus": "CC BY-NC-SA 4.0"}`.
        datasets: further training corpora.

    Raises:
        ValueError: for `licences` that are not a mapping.
    """
    stated = recipe.get(LICENCES) or {}
    if not isinstance(stated, Mapping):
        raise ValueError(f"{LICENCES} of a training recipe must map corpora to their licences, got {stated!r:.200}.")
    names = [name.lower() for name in (recipe.get("dataset"), *datasets) if isinstance(name, str)]
    known = {name: licence for name in names if name in CORPORA and (licence := CORPORA[name].licence)}
    return known | {str(name): str(licence) for name, licence in stated.items()}


def check_licence(recipe: Mapping[str, object], license: str | None, datasets: Iterable[str] = ()) -> None:
    """Reject a licence that allows commercial use if a training corpus is for non-commercial use only.

    Args:
        recipe, datasets: as `licences_of` takes them.
        license: the licence to publish the model under, an identifier of the Hub.

    Raises:
        ValueError: naming the corpora, and as `licences_of`.
    """
    pattern = re.compile(r"\bnc\b|non-?commercial", re.IGNORECASE)
    restricted = {name: text for name, text in licences_of(recipe, datasets).items() if pattern.search(text)}
    if restricted and not pattern.search(license or ""):
        raise ValueError(
            f"The model was trained on {restricted}, which allow non-commercial use only, so its licence cannot "
            f"be {license!r}. Choose one with 'nc', such as cc-by-nc-sa-4.0, or force it if you have other "
            "rights."
        )
