"""The protocol of an evaluation; only numbers of the same protocol may be compared in one table."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

from datasets import Dataset
from transformers.utils import cached_file

from .._version import __version__
from ..data.problems import file_stamp
from ..modeling.model_identity import host_checksums
from ..training_recipe import RECIPE_FILE, read_recipe


# Fields that must be equal for numbers to be compared; fields of the fold may differ between folds.
_OF_THE_TASK = ("corpus", "label_set", "labels", "split", "prompt", "readout", "turn_seconds")
_OF_THE_FOLD = ("data", "turns", "scored", "conversations")
_PACKAGES = ("torch", "transformers", "datasets", "evaluate", "scikit-learn")


def major_version(content: dict) -> int:
    """The major schema version of a report, which determines the meaning of its conditions."""
    return int(str(content["schema_version"]).split(".")[0])


class ProtocolError(ValueError):
    """Reports of different protocols were compared."""


class Reading(TypedDict):
    """How an evaluation gets answers: `readout` is "logits" or "text", `max_new_tokens` of text, `seed` as there."""

    readout: str
    max_new_tokens: int
    seed: int


def protocol_of(model, processor, dataset: Dataset, *, readout: str, max_new_tokens: int, seed: int) -> dict:
    """The protocol of an evaluation of a model on a split, with the fields of a report's `protocol`."""
    label_set, _, fold = (dataset.info.config_name or "own").partition(", fold ")
    readouts = {
        "verbalizer": "label tokens",
        "linear": "linear head",
        "audio": "linear head on audio",
        None: "no labels",
    }
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
        "turn_seconds": [model.min_turn_seconds(processor), model.max_turn_seconds(processor)],
        "seed": seed,
        "versions": {"titans_mal": __version__, **{package: version(package) for package in _PACKAGES}},
    }


def data_fingerprint(dataset: Dataset) -> str:
    """Fingerprint of the turns, their order, speakers and labels."""
    columns = dataset.select_columns(["conversation_id", "turn_index", "speaker", "emotion"]).to_dict()
    return _fingerprint(columns)


def audio_fingerprint(dataset: Dataset) -> str:
    """Fingerprint of the turns' audio, from size and modification time of the files."""
    files = []
    for row in dataset.select_columns(["audio"]):
        audio = row["audio"] or {"path": ""}
        encoded = audio.get("bytes")
        files.append([audio.get("path"), file_stamp(audio["path"]) if encoded is None else zlib.crc32(encoded)])
    return _fingerprint(files)


def _fingerprint(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def model_of(model, name: str | None = None) -> dict:
    """Description of the evaluated model, with the fields of a report's `model`; `weights` is a fingerprint.

    Args:
        name: name in the report, a folder or repo; None: where the model was loaded from, or its class.
    """
    config = model.config
    # By order and not by name, since the names of LoRA weights change when it is loaded.
    weights = list(host_checksums(model.state_dict(), without=()).values())
    transitions = [] if config.emotion_transitions is None else [config.emotion_transitions]
    return {
        "name": name or (model.loaded_from or [type(model).__name__])[0],
        "class": type(model).__name__,
        "base": config.base_model_name_or_path,
        "base_revision": config.base_model_revision,
        "memory": _memory_of(config.memory_config),
        "lora": _lora_of(model),
        "training": _training_of(model, name),
        "weights": _fingerprint([weights, config.label_token_ids, *transitions]),
        "dtype": str(model.dtype).removeprefix("torch."),
        "temperature": config.emotion_temperature,
        "dimensions": list(config.emotion_dimensions),
        # Left out for other models, so that their reports stay comparable with those of earlier versions.
        **({"emotion_transitions": True} if transitions else {}),
        **({"label_words": config.label_words} if config.label_words else {}),
    }


def _memory_of(memory) -> dict:
    fields = {name: getattr(memory, name) for name in type(memory).__annotations__}
    # Its fingerprint covers only the memory, and is unknown before first use.
    return {name: fields[name] for name in fields if name not in ("model_type", "weights_fingerprint")}


def _lora_of(model) -> dict | None:
    """The adapter that was added to the host; None without one."""
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
    """The recipe in the folder `name`, else that beside the loaded checkpoint; None if there is none."""
    if name is not None and Path(name).is_dir():
        return read_recipe(Path(name)) or None
    if model.loaded_from is None:
        return None
    checkpoint, hub = model.loaded_from
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(checkpoint, RECIPE_FILE, **missing, **hub)
    return None if path is None else read_recipe(Path(path).parent) or None


def check_comparable(contents: Sequence[dict]) -> None:
    """Check that reports have the same protocol.

    Reports of different folds may be compared, each on its own turns.

    Args:
        contents: contents of the reports.

    Raises:
        ProtocolError: naming what differs, with the values.
    """
    versions = sorted({major_version(content) for content in contents})
    if len(versions) > 1:
        raise ProtocolError(
            f"These reports have the schema versions {versions}, whose conditions differ: evaluate the models of the "
            "older reports again."
        )
    first = contents[0]["protocol"]
    for content in contents[1:]:
        other = content["protocol"]
        is_same_fold = other["fold"] == first["fold"]
        if (first["fold"] is None) != (other["fold"] is None):
            raise ProtocolError(
                "Reports with and without a fold cannot be compared in one table: got the folds "
                f"{first['fold']} and {other['fold']}."
            )
        fields = [*_OF_THE_TASK, *(_OF_THE_FOLD if is_same_fold else ())]
        differing = {field: (first[field], other[field]) for field in fields if first[field] != other[field]}
        if differing:
            values = "; ".join(f"{field}: {one!r} and {two!r}" for field, (one, two) in differing.items())
            raise ProtocolError(f"Reports of different protocols cannot be compared in one table: {values}.")
    _check_folds(contents)


def _check_folds(contents: Sequence[dict]) -> None:
    by_fold: dict = {}
    by_data: dict = {}
    measured = set()
    for content in contents:
        fold, data = content["protocol"]["fold"], content["protocol"]["data"]
        not_scored = [[turn["conversation_id"], turn["turn_index"]] for turn in content["not_scored"]]
        if by_fold.setdefault(fold, (data, not_scored)) != (data, not_scored):
            raise ProtocolError(f"Reports of fold {fold} were measured on different turns.")
        if by_data.setdefault(data, fold) != fold:
            raise ProtocolError(f"Folds {by_data[data]} and {fold} were measured on the same turns.")
        run = (fold, content["model"]["weights"], content["created"])
        if run in measured:
            raise ProtocolError(f"The report of {content['model']['name']} of {content['created']} was given twice.")
        measured.add(run)
