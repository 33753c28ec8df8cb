"""What a number was measured under; numbers of different protocols do not belong in one table."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib.metadata import version

from datasets import Dataset

from ..data.audio import MIN_SECONDS
from ..data.problems import file_stamp
from ..modeling.host_identity import host_checksums


# What must be equal for numbers to be compared; what depends on the fold need not be equal between folds.
_OF_THE_TASK = ("corpus", "label_set", "labels", "split", "prompt", "readout", "heard_seconds")
_OF_THE_FOLD = ("data", "turns", "scored", "conversations")
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
        "split": ", ".join(sorted(set(dataset["split"]))) if "split" in dataset.column_names else "unnamed",
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
    columns = dataset.select_columns(["conversation_id", "turn_index", "speaker", "emotion"]).to_dict()
    return _fingerprint(columns)


def sound_fingerprint(dataset: Dataset) -> str:
    """A name of the sound of the turns, which changes when a file does (its size or time)."""
    told = []
    for row in dataset.select_columns(["audio"]):
        sound = row["audio"] or {"path": ""}
        encoded = sound.get("bytes")
        told.append([sound.get("path"), file_stamp(sound["path"]) if encoded is None else zlib.crc32(encoded)])
    return _fingerprint(told)


def _fingerprint(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def model_of(model) -> dict:
    """Which model was measured, in the fields of the report's `model`; `weights` names all of its numbers."""
    memory = model.config.memory_config.to_diff_dict()
    memory.pop("weights_fingerprint", None)  # of the memory alone, and only once it was used
    # In order and without names: that of a LoRA is another one once it was loaded.
    weights = list(host_checksums(model.state_dict(), without=()).values())
    return {
        "name": model.config.name_or_path or type(model).__name__,
        "class": type(model).__name__,
        "base": model.config.base_model_name_or_path,
        "base_revision": model.config.base_model_revision,
        "memory": json.loads(json.dumps(memory)),
        "weights": _fingerprint([weights, model.config.label_token_ids]),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def check_comparable(contents: Sequence[dict]) -> None:
    """Refuse reports that were not measured under one protocol.

    Folds of one protocol may be put together, each on turns of its own.

    Args:
        contents: of reports.

    Raises:
        ProtocolError: naming what differs, with the values.
    """
    first = contents[0]["protocol"]
    for content in contents[1:]:
        other = content["protocol"]
        is_same_fold = other["fold"] == first["fold"]
        if (first["fold"] is None) != (other["fold"] is None):
            raise ProtocolError(f"A report of a fold and one of none belong in no common table: {first['fold']} and "
                                f"{other['fold']}.")  # fmt: skip
        fields = [*_OF_THE_TASK, *(_OF_THE_FOLD if is_same_fold else ())]
        differing = {field: (first[field], other[field]) for field in fields if first[field] != other[field]}
        if differing:
            told = "; ".join(f"{field}: {one!r} and {two!r}" for field, (one, two) in differing.items())
            raise ProtocolError(f"These reports are of different protocols and belong in no common table: {told}.")
    _check_folds(contents)


def _check_folds(contents: Sequence[dict]) -> None:
    by_fold: dict = {}
    by_data: dict = {}
    measured = set()
    for content in contents:
        fold, data = content["protocol"]["fold"], content["protocol"]["data"]
        not_heard = [[turn["conversation_id"], turn["turn_index"]] for turn in content["not_heard"]]
        if by_fold.setdefault(fold, (data, not_heard)) != (data, not_heard):
            raise ProtocolError(f"Fold {fold} was measured on different turns.")
        if by_data.setdefault(data, fold) != fold:
            raise ProtocolError(f"Folds {by_data[data]} and {fold} were measured on the same turns.")
        run = (fold, content["model"]["weights"], content["created"])
        if run in measured:
            raise ProtocolError(f"The report of {content['model']['name']} of {content['created']} is given twice.")
        measured.add(run)
