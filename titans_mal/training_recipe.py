"""`training_recipe.json`: how a model was trained, written by its training beside the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


def check_licence(recipe: Mapping[str, object], license: str | None) -> None:
    """Reject a licence that allows commercial use if a training corpus is for non-commercial use only.

    Args:
        recipe: recipe of the model. The licence of its `dataset` is checked if `load_conversations` knows it, and the
            values of its `licences`, such as `{"own-corpus": "CC BY-NC-SA 4.0"}`.
        license: the licence to publish the model under, an identifier of the Hub.

    Raises:
        ValueError: naming the corpora.
    """
    stated = recipe.get(LICENCES)
    licences = dict(stated) if isinstance(stated, Mapping) else {}
    dataset = recipe.get("dataset")
    if isinstance(dataset, str) and dataset in CORPORA:
        licences.setdefault(dataset, CORPORA[dataset].licence)
    pattern = re.compile(r"\bnc\b|non-?commercial", re.IGNORECASE)
    restricted = {name: text for name, text in licences.items() if pattern.search(str(text))}
    if restricted and not pattern.search(license or ""):
        raise ValueError(
            f"The model was trained on {restricted}, which allow non-commercial use only, so its licence cannot "
            f"be {license!r}. Choose one with 'nc', such as cc-by-nc-sa-4.0, or force it if you have other "
            "rights."
        )
