"""What of a model's folder belongs into a repository: its own files by name, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from ..auto import HOSTS
from ..modeling.checkpoint_saving import EXTENSION_NAMES, check_base_is_public, save_code
from ..modeling.configuration_titans_mal import AudioEmotionConfigMixin
from ..modeling.host_lora import LORA_FOLDER


RECIPE_FILE, CARD_FILE = "training_recipe.json", "README.md"

# The weights, of which a repository must hold no others than those that are published.
_WEIGHTS = re.compile(rf"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|{LORA_FOLDER}/adapter_.*")
# A processor's files, those of every host.
_PROCESSOR = re.compile(
    r"(pre|video_pre)?processor_config\.json|tokenizer(_config)?\.json|tokenizer\.model|tekken\.json|vocab\.(json|txt)"
    r"|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)"
    r"|additional_chat_templates/[\w.-]+\.jinja"
)
_OTHERS = re.compile(
    rf"(generation_)?config\.json|{CARD_FILE}|LICENSE(\.\w+)?|handler\.py|requirements\.txt|{RECIPE_FILE}"
)


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a model with memory in a folder, fit to be published.

    Raises:
        FileNotFoundError: if the folder or its configuration is not there.
        ValueError: if it holds no model with memory, or one that cannot be published, saying what to do.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: config.json is missing.")
    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, AudioEmotionConfigMixin):
        raise ValueError(f"{folder} holds no model with memory, but a {config.model_type!r}: from_base gives it one.")
    check_base_is_public(config)
    weights = [path for path in folder.glob("model*.safetensors") if _WEIGHTS.fullmatch(path.name)]
    if not weights:
        raise FileNotFoundError(f"{folder} holds no weights: model.safetensors is missing.")
    if config.adapter_only:
        hosts = sorted({key for path in weights for key in _keys(path) if key.split(".")[0] not in EXTENSION_NAMES})
        if hosts:
            raise ValueError(
                f"{folder} is an adapter by its config.json, and holds {len(hosts)} weights of the host "
                f"({hosts[0]}, ...), which only a model in full may: save it with model.config.adapter_only = False."
            )
    return config


def repository_files(folder: Path, examples: Collection[str] = ()) -> tuple[dict[str, Path], list[str]]:
    """By their place in the repository, the files that are published; and the names of those that are not.

    Args:
        examples: names of the sound files that are published; no other sound is.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    code = _code(folder)
    patterns = (_WEIGHTS, _PROCESSOR, _OTHERS)
    chosen = {
        name: path
        for name, path in names.items()
        if name in code or name in examples or any(pattern.fullmatch(name) for pattern in patterns)
    }
    return chosen, sorted({*names} - {*chosen})


def is_stale(name: str) -> bool:
    """Whether a file of an earlier publication would be taken for a part of the model."""
    return _WEIGHTS.fullmatch(name) is not None


def write_code(folder: Path, config: PreTrainedConfig) -> None:
    """Write the model's code into a folder that was saved without it."""
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    if "auto_map" in fields and "custom_pipelines" in fields:
        return
    save_code(HOSTS[config.host_class().model_type], config, folder)
    fields |= {"auto_map": config.auto_map, "custom_pipelines": config.custom_pipelines}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def total_megabytes(folder: Path) -> float:
    """Of all weights of the model in a folder."""
    weights = [
        path for path in folder.rglob("*.safetensors") if _WEIGHTS.fullmatch(path.relative_to(folder).as_posix())
    ]
    return sum(path.stat().st_size for path in weights) / 1e6


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
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold names and values, got {type(recipe).__name__}.")
    return recipe


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _code(folder: Path) -> set[str]:
    """The modules that the configuration names, and what they import from beside them."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    references = [*config["auto_map"].values(), *(task["impl"] for task in config["custom_pipelines"].values())]
    modules = [folder / f"{reference.split('.')[0]}.py" for reference in references]
    missing = sorted({path.name for path in modules if not path.is_file()})
    if missing:
        raise FileNotFoundError(f"{folder} lacks its code ({', '.join(missing)}): save the model again.")
    return {Path(file).name for path in modules for file in (path, *get_relative_import_files(path))}
