"""A LoRA on the host: kept beside the memory, in PEFT's own format in a sub-folder of its own.

An `adapter_config.json` in the root of a repository would make transformers take the whole of it for one of PEFT.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import cached_file, is_peft_available


LORA_FOLDER = "lora"
# Under which the LoRA of a checkpoint is loaded; a base may bring adapters of its own.
LORA_NAME = "emotion"
_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# How PEFT's files call the model that it wraps.
_PREFIX = "base_model.model."


def peft_adapters(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of PEFT's adapters in a model."""
    return tuple(getattr(model, "peft_config", ()))


def save_lora(
    model: PreTrainedModel, name: str, folder: str | os.PathLike, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Write the adapter `name` into `folder`, for `load_lora` and for PEFT itself.

    Args:
        state_dict: the model's weights, to be written instead of the present ones.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _adapter_weights(model, name, state_dict)
    weights = {
        f"{_PREFIX}{key.removeprefix(_PREFIX)}": tensor.detach().cpu().contiguous() for key, tensor in weights.items()
    }
    config = copy.deepcopy(model.peft_config[name])
    config.inference_mode = True
    config.base_model_name_or_path = model.config.base_model_name_or_path
    config.revision = model.config.base_model_revision
    config.save_pretrained(str(folder))
    save_file(weights, folder / _WEIGHTS_FILE, {"format": "pt"})


def remove_lora(folder: Path) -> None:
    """Take away what `save_lora` wrote there before."""
    for name in (_CONFIG_FILE, _WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)


def load_lora(model: PreTrainedModel, name: str | os.PathLike, hub: dict, *, is_needed: bool) -> bool:
    """Put the LoRA of a checkpoint onto the host, active beside those that the host came with; not trainable.

    Args:
        name: folder or Hub repo of the checkpoint, whose sub-folder `lora/` is meant.
        hub: how it is reached, as `hub_keywords` gives.
        is_needed: whether the checkpoint says that it has one.

    Returns:
        Whether there was one.

    Raises:
        OSError: if it is needed and not there, or its weights are not (a pickle is never loaded).
        ImportError: if PEFT is not installed.
        ValueError: if its weights do not fit the host.
    """
    hub = {**hub, "subfolder": os.path.join(hub.get("subfolder") or "", LORA_FOLDER)}
    path = cached_file(name, _CONFIG_FILE, _raise_exceptions_for_missing_entries=is_needed, **hub)
    if path is None:
        return False
    if not is_peft_available():
        raise ImportError(f"The host of {name} carries a LoRA, which needs PEFT: pip install peft")
    from peft import PeftConfig, set_peft_model_state_dict

    weights = load_file(cached_file(name, _WEIGHTS_FILE, **hub))
    weights = {key.removeprefix(_PREFIX): tensor for key, tensor in weights.items()}
    config = PeftConfig.from_pretrained(os.path.dirname(path))
    config.inference_mode = True
    own = peft_adapters(model)
    model.add_adapter(config, LORA_NAME)
    wrong = _wrong_keys(model, weights)
    if wrong:
        raise ValueError(f"The LoRA of {name} does not fit its host: {wrong}.")
    model.set_adapter([*own, LORA_NAME])
    for key, parameter in model.named_parameters():
        if LORA_NAME in key.split("."):
            # As precise as it was trained, which may be more than the host is.
            parameter.data = parameter.data.to(next(iter(weights.values())).dtype)
            parameter.requires_grad_(False)
    set_peft_model_state_dict(model, weights, adapter_name=LORA_NAME)
    return True


def _wrong_keys(model: PreTrainedModel, weights: dict[str, Tensor]) -> list[str]:
    own = _adapter_weights(model, LORA_NAME)
    return sorted({*own} ^ {*weights}) or sorted(key for key in own if own[key].shape != weights[key].shape)


def _adapter_weights(
    model: PreTrainedModel, name: str, state_dict: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    # Whether the host's embeddings were changed, PEFT would ask the Hub; here nothing of the host has changed.
    return get_peft_model_state_dict(model, state_dict=state_dict, adapter_name=name, save_embedding_layers=False)
