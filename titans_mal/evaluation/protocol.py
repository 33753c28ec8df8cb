"""What a number was measured under; numbers of different protocols do not belong in one table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version

from datasets import Dataset

from ..data.problems import MIN_SECONDS


# What must be equal for numbers to be compared; what depends on the fold need not be equal between folds.
_OF_THE_TASK = ("corpus", "label_set", "labels", "split", "prompt", "readout", "heard_seconds")
_OF_THE_FOLD = ("fold", "data", "turns", "scored", "conversations")
_PACKAGES = ("titans_mal", "torch", "transformers", "datasets", "evaluate", "scikit-learn")


class ProtocolError(ValueError):
    """Reports of different protocols were put in one table."""


def protocol_of(model, processor, dataset: Dataset, *, readout: str, max_new_tokens: int, seed: int) -> dict:
    """What the numbers of a model on a split are measured under, in the fields of the report's `protocol`."""
    label_set, _, fold = (dataset.info.config_name or "own").partition(", fold ")
    readouts = {"verbalizer": "label tokens", "linear": "linear head"}
    return {
        "corpus": dataset.info.dataset_name or "unnamed",
        "label_set": label_set,
        "labels": dataset.features["emotion"].names,
        "fold": int(fold) if fold else None,
        "split": ", ".join(sorted(set(dataset["split"]))),
        "data": data_fingerprint(dataset),
        "turns": dataset.num_rows,
        "scored": sum(emotion >= 0 for emotion in dataset["emotion"]),
        "conversations": len(set(dataset["conversation_id"])),
        "prompt": model.config.prompt_text(),
        "readout": readouts[model.config.emotion_readout]
        if readout == "logits"
        else f"generated text of at most {max_new_tokens} tokens",
        "heard_seconds": [MIN_SECONDS, model.max_turn_seconds(processor)],
        "seed": seed,
        "versions": {package: version(package) for package in _PACKAGES},
    }


def data_fingerprint(dataset: Dataset) -> str:
    """A name of which turns are heard, in which order, by whom, and what they are scored by."""
    columns = dataset.select_columns(["conversation_id", "turn_index", "speaker", "emotion", "seconds"]).to_dict()
    return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()[:16]


def model_of(model) -> dict:
    """Which model was measured, in the fields of the report's `model`."""
    return {
        "name": model.config.name_or_path or type(model).__name__,
        "class": type(model).__name__,
        "base": model.config.base_model_name_or_path,
        "base_revision": model.config.base_model_revision,
        "memory": json.loads(json.dumps(model.config.memory_config.to_diff_dict())),
        "weights": model.titans_memory.fingerprint(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def check_comparable(protocols: Sequence[dict]) -> None:
    """Refuse reports that were not measured under one protocol.

    Folds of one protocol may be put together, if there is no fold twice on other data.

    Raises:
        ProtocolError: naming what differs, with the values.
    """
    first = protocols[0]
    for other in protocols[1:]:
        fields = [*_OF_THE_TASK, *(_OF_THE_FOLD if other["fold"] == first["fold"] else ())]
        differing = {field: (first[field], other[field]) for field in fields if first[field] != other[field]}
        if differing:
            told = "; ".join(f"{field}: {one!r} and {two!r}" for field, (one, two) in differing.items())
            raise ProtocolError(f"These reports are of different protocols and belong in no common table: {told}.")
    by_fold: dict = {}
    for protocol in protocols:
        if by_fold.setdefault(protocol["fold"], protocol["data"]) != protocol["data"]:
            raise ProtocolError(f"Fold {protocol['fold']} was measured on different turns.")
