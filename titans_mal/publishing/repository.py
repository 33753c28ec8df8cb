"""Select the files of a model's folder that belong into its repository, by name."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..auto import HOSTS
from ..modeling.checkpoint_saving import (
    WEIGHT_FILES,
    check_base_is_public,
    is_of_extension,
    is_repo_name,
    save_code,
)
from ..modeling.configuration_titans_mal import AudioEmotionConfigMixin
from ..modeling.host_lora import LORA_FILES, LORA_FOLDER, has_lora
from ..modeling.json_text import read_json
from ..modeling.shortened import shortened
from ..training_recipe import RECIPE_FILE


CARD_FILE = "README.md"

_LORA = {f"{LORA_FOLDER}/{name}" for name in LORA_FILES}
# Files of an earlier publication that a loader would mistake for weights of the model.
_STALE = re.compile(
    rf"model[\w.-]*\.safetensors(\.index\.json)?|pytorch_model[\w.-]*|({LORA_FOLDER}/)?adapter_(config|model)\.\w+"
)
# Processor files of all hosts.
_PROCESSOR = re.compile(
    r"(pre|video_pre)?processor_config\.json|tokenizer(_config)?\.json|tokenizer\.model|tekken\.json|vocab\.(json|txt)"
    r"|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)"
    r"|additional_chat_templates/[\w.-]+\.jinja"
)
_OTHERS = re.compile(
    rf"(generation_)?config\.json|{CARD_FILE}|LICENSE(\.(md|txt|rst))?|handler\.py|requirements\.txt|{RECIPE_FILE}"
)


def read_config(folder: Path) -> PreTrainedConfig:
    """Load and check the configuration of a model with memory that is to be published.

    Raises:
        FileNotFoundError: if the folder or its configuration does not exist.
        ValueError: if it is not a model with memory, or cannot be published, with what to do.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a model: config.json is missing.")
    _check_links(folder)
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, AudioEmotionConfigMixin):
        raise ValueError(f"{folder} is a {config.model_type!r} without memory: from_base adds a memory to a host.")
    check_base_is_public(config)
    weights = _weight_files(folder)
    if not any(_PROCESSOR.fullmatch(path.name) for path in folder.iterdir()):
        raise FileNotFoundError(f"{folder} has no processor: set model.processor and save the model again.")
    if config.has_lora and not has_lora(folder):
        raise FileNotFoundError(f"{folder} lacks the LoRA in {LORA_FOLDER}/ that its config.json declares.")
    keys = {key for path in weights for key in _keys(path)}
    if config.adapter_only:
        hosts = sorted(key for key in keys if not is_of_extension(key))
        if hosts:
            raise ValueError(
                f"{folder} is an adapter by its config.json, but holds {len(hosts)} weights of the host "
                f"({shortened(hosts, 1)}): save it with model.config.adapter_only = False."
            )
    return config


def repository_files(folder: Path, shown: Collection[str] = ()) -> tuple[dict[str, Path], list[str]]:
    """The files to publish, by their path in the repository; and the names of the other files.

    Links out of the folder are not followed.

    Args:
        shown: names of the audio files and pictures to publish; no others are published.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    code = _code(folder)
    patterns = (WEIGHT_FILES, _PROCESSOR, _OTHERS)
    chosen = {
        name: path
        for name, path in names.items()
        if not _leads_out(path, folder)
        and (name in {*code, *shown, *_LORA} or any(pattern.fullmatch(name) for pattern in patterns))
    }
    return chosen, sorted({*names} - {*chosen})


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a path leads out of the folder through a link."""
    return not path.resolve().is_relative_to(folder.resolve())


def _check_links(folder: Path) -> None:
    """Reject a folder in which files of the model are links to other places.

    Raises:
        ValueError: naming the link.
    """
    needed = [folder / LORA_FOLDER, folder / "additional_chat_templates"]
    needed += [folder / name for name in ("config.json", RECIPE_FILE, *_LORA)]
    needed += [path for path in folder.iterdir() if WEIGHT_FILES.fullmatch(path.name) or path.suffix == ".py"]
    needed += [path for path in folder.iterdir() if _PROCESSOR.fullmatch(path.name)]
    for path in needed:
        if path.exists() and _leads_out(path, folder) and path.name != "handler.py":
            raise ValueError(
                f"{path} is a link out of the folder, to {path.resolve()}: replace it by a copy of the file."
            )


def is_stale(name: str) -> bool:
    """Whether a file of an earlier publication could be mistaken for a part of the model."""
    return _STALE.fullmatch(name) is not None


def complete_config(folder: Path, config: PreTrainedConfig) -> None:
    """Complete a folder's configuration for publishing: refer to the code, and remove local paths."""
    path = folder / "config.json"
    fields = read_json(path, dict)
    before = dict(fields)
    if not {"auto_map", "custom_pipelines"} <= {*fields}:
        save_code(HOSTS[config.host_class().model_type], config, folder)
        fields |= {"auto_map": config.auto_map, "custom_pipelines": config.custom_pipelines}
    if not is_repo_name(config.base_model_name_or_path):
        # A full model does not need its base.
        config.base_model_name_or_path = fields["base_model_name_or_path"] = None
    if fields != before:
        replace_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Replace a file; if it was a link, the link itself is replaced."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def total_megabytes(folder: Path) -> float:
    """Size of all weights of the model in a folder."""
    weights = [*_weight_files(folder), *(folder / name for name in sorted(_LORA) if has_lora(folder))]
    return sum(path.stat().st_size for path in weights if path.suffix == ".safetensors") / 1e6


def _weight_files(folder: Path) -> list[Path]:
    """The weights files of the model in a folder.

    Raises:
        FileNotFoundError: if there are none, or shards are missing.
        ValueError: if there are files of several saves.
    """
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    existing = {path for path in folder.glob("model*.safetensors") if WEIGHT_FILES.fullmatch(path.name)}
    wanted = {single}
    if index.is_file():
        weight_map = read_json(index, dict).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError(f"{index} has no valid weight_map.")
        wanted = {folder / name for name in weight_map.values()}
    missing, others = sorted(path.name for path in wanted - existing), sorted(path.name for path in existing - wanted)
    if missing:
        raise FileNotFoundError(f"{folder} lacks weights: {', '.join(missing)} is missing.")
    if others:
        raise ValueError(f"{folder} holds weights of several saves: remove {', '.join(others)}.")
    return sorted(wanted)


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _code(folder: Path) -> set[str]:
    """The modules named by the configuration, and the modules beside them that these import."""
    config = read_json(folder / "config.json", dict)
    references = [*config["auto_map"].values(), *(task["impl"] for task in config["custom_pipelines"].values())]
    modules = [folder / f"{reference.split('.')[0]}.py" for reference in references]
    missing = sorted({path.name for path in modules if not path.is_file()})
    if missing:
        raise FileNotFoundError(f"{folder} lacks its code ({', '.join(missing)}): save the model again.")
    imported = {Path(file).name for path in modules for file in get_relative_import_files(path)}
    return imported | {path.name for path in modules}
