"""What a number was measured under; numbers of different protocols do not belong in one table."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from transformers.utils import cached_file

from .._version import __version__
from ..data.problems import file_stamp
from ..modeling.model_identity import host_checksums
from ..training_recipe import RECIPE_FILE, read_recipe


# What must be equal for numbers to be compared; what depends on the fold need not be equal between folds.
_OF_THE_TASK = ("corpus", "label_set", "labels", "split", "prompt", "readout", "heard_seconds")
_OF_THE_FOLD = ("data", "turns", "scored", "conversations")
_PACKAGES = ("torch", "transformers", "datasets", "evaluate", "scikit-learn")


def major_version(content: dict) -> int:
    """The major schema version of a report's content: its conditions are those of reports with the same one."""
    return int(str(content["schema_version"]).split(".")[0])


class ProtocolError(ValueError):
    """Reports of different protocols were put in one table."""


def protocol_of(model, processor, dataset: Dataset, *, readout: str, max_new_tokens: int, seed: int) -> dict:
    """What the numbers of a model on a split are measured under, in the fields of the report's `protocol`."""
    label_set, _, fold = (dataset.info.config_name or "own").partition(", fold ")
    readouts = {"verbalizer": "label tokens", "linear": "linear head", None: "no labels"}
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
        "heard_seconds": [model.min_turn_seconds(processor), model.max_turn_seconds(processor)],
        "seed": seed,
        "versions": {"titans_mal": __version__, **{package: version(package) for package in _PACKAGES}},
    }


def data_fingerprint(dataset: Dataset) -> str:
    """A name of which turns are processed, in which order, by whom said, and of their labels."""
    columns = dataset.select_columns(["conversation_id", "turn_index", "speaker", "emotion"]).to_dict()
    return _fingerprint(columns)


def sound_fingerprint(dataset: Dataset) -> str:
    """A name of the audio of the turns, which changes when a file does (its size or time)."""
    files = []
    for row in dataset.select_columns(["audio"]):
        sound = row["audio"] or {"path": ""}
        encoded = sound.get("bytes")
        files.append([sound.get("path"), file_stamp(sound["path"]) if encoded is None else zlib.crc32(encoded)])
    return _fingerprint(files)


def _fingerprint(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def model_of(model, name: str | None = None) -> dict:
    """Which model was measured, in the fields of the report's `model`; `weights` names all of its numbers.

    Args:
        name: what the report calls it, a folder or repo; None: what it was loaded from, or its class.
    """
    config = model.config
    # In order and without names: that of a LoRA is another one once it was loaded.
    weights = list(host_checksums(model.state_dict(), without=()).values())
    return {
        "name": name or (model.loaded_from or [type(model).__name__])[0],
        "class": type(model).__name__,
        "base": config.base_model_name_or_path,
        "base_revision": config.base_model_revision,
        "memory": _memory_of(config.memory_config),
        "lora": _lora_of(model),
        "training": _training_of(model, name),
        "weights": _fingerprint([weights, config.label_token_ids]),
        "dtype": str(model.dtype).removeprefix("torch."),
        "temperature": config.emotion_temperature,
        "dimensions": list(config.emotion_dimensions),
    }


def _memory_of(memory) -> dict:
    fields = {name: getattr(memory, name) for name in type(memory).__annotations__}
    # The fingerprint is of the memory alone, and known only once it was used.
    return {name: fields[name] for name in fields if name not in ("model_type", "weights_fingerprint")}


def _lora_of(model) -> dict | None:
    """The adapter on the host that its base did not bring; None without one."""
    names = model.added_adapters
    if not names:
        return None
    config = model.peft_config[names[0]]
    targets = config.target_modules
    return {
        "type": str(getattr(config.peft_type, "value", config.peft_type)),
        "rank": getattr(config, "r", None),
        "alpha": getattr(config, "lora_alpha", None),
        "targets": targets if isinstance(targets, str | None) else sorted(targets),
    }


def _training_of(model, name: str | None) -> dict | None:
    """The recipe in the folder `name`, else beside what the model was loaded from; None where there is none."""
    if name is not None and Path(name).is_dir():
        return read_recipe(Path(name)) or None
    if model.loaded_from is None:
        return None
    checkpoint, hub = model.loaded_from
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(checkpoint, RECIPE_FILE, **missing, **hub)
    return None if path is None else read_recipe(Path(path).parent) or None


def check_comparable(contents: Sequence[dict]) -> None:
    """Refuse reports that were not measured under one protocol.

    Folds of one protocol may be put together, each on turns of its own.

    Args:
        contents: of reports.

    Raises:
        ProtocolError: naming what differs, with the values.
    """
    versions = sorted({major_version(content) for content in contents})
    if len(versions) > 1:
        raise ProtocolError(
            f"These reports are of the schema versions {versions}, whose conditions are not the same: evaluate the "
            "models of the older ones again."
        )
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
            values = "; ".join(f"{field}: {one!r} and {two!r}" for field, (one, two) in differing.items())
            raise ProtocolError(f"These reports are of different protocols and belong in no common table: {values}.")
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
