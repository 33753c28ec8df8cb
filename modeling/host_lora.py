"""A LoRA on the host, stored in PEFT's own format in the subfolder `lora/` of a checkpoint.

An `adapter_config.json` in the root of a repository would make transformers treat all of it as a PEFT adapter.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, __version__
from transformers.integrations.peft import MIN_PEFT_VERSION
from transformers.utils import cached_file, check_peft_version, is_peft_available

from .host_types import HostModel


LORA_FOLDER = "lora"
# Adapter name of a checkpoint's LoRA, distinct from the names of adapters in the base.
LORA_NAME = "emotion"
LORA_FILES = _CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# PEFT's prefix for the weights of the wrapped model.
_PREFIX = "base_model.model."


_ON_EXTENSION = (
    "A PEFT adapter targets {}, which is trained and saved on its own: restrict target_modules and modules_to_save "
    'to the host, or set exclude_modules=r"(titans_memory|emotion_head).*".'
)


class HostLoraMixin(HostModel):
    """PEFT adapters on the host, added by transformers' own `add_adapter`."""

    # Names of the adapters that the base had.
    _base_adapters: tuple[str, ...] = ()

    def add_adapter(self, adapter_config, adapter_name: str | None = None) -> None:
        """As transformers' `add_adapter`; the base's adapters stay active, and the memory's trainability is unchanged.

        Raises:
            ImportError: if PEFT is not installed, or older than this transformers demands.
            ValueError: for an adapter on memory or readout, which are trained and saved on their own.
        """
        _peft()
        on_extension = sorted({name.split(".")[0] for name in _targets_on(self, adapter_config, self.extension_names)})
        if on_extension:
            raise ValueError(_ON_EXTENSION.format(on_extension))
        with self._same_extension_trained():
            super().add_adapter(adapter_config, adapter_name)
            if self._base_adapters:
                self.set_adapter([*self._base_adapters, adapter_name or "default"])
                for key, parameter in self.named_parameters():
                    if ".lora_" in key and {*key.split(".")} & {*self._base_adapters}:
                        parameter.requires_grad_(False)

    def load_adapter(self, *args, **kwargs):
        """As transformers' `load_adapter`, whose arguments it takes; the memory's trainability is unchanged."""
        with self._same_extension_trained():
            return super().load_adapter(*args, **kwargs)

    @contextlib.contextmanager
    def _same_extension_trained(self) -> Iterator[None]:
        """Restore which weights of memory and readout are trained: PEFT freezes all but its own."""
        extension = [p for name in self.extension_names for p in getattr(self, name).parameters()]
        is_trained = [parameter.requires_grad for parameter in extension]
        yield
        for parameter, requires_grad in zip(extension, is_trained):
            parameter.requires_grad_(requires_grad)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """The number of trainable parameters and of all parameters, as in PEFT's models."""
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(count for count, is_trained in counts if is_trained), sum(count for count, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Print the number and share of trainable parameters, in the format of PEFT's models."""
        trained, total = self.get_nb_trainable_parameters()
        share = 100 * trained / total
        print(f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {share:.4f}")

    def freeze_host(self) -> None:
        """Make memory and readout trainable, and freeze the host."""
        self.requires_grad_(False)
        for name in self.extension_names:
            getattr(self, name).requires_grad_(True)

    @property
    def added_adapters(self) -> list[str]:
        """Names of the adapters that were added to those of the base."""
        return [name for name in peft_adapters(self) if name not in self._base_adapters]

    def check_adapters(self) -> None:
        """Check that all PEFT adapters of the model can be saved and loaded again.

        Raises:
            ValueError: for more than one added adapter, one on the memory, adapters that are not active (loading
                activates them), and any adapter in a model that is saved in full.
        """
        state = self.state_dict()
        wrapped = {key.split(".")[0] for key in state if ".base_layer." in key or ".original_module." in key}
        on_extension = sorted(wrapped & {*self.extension_names})
        if on_extension:
            raise ValueError(_ON_EXTENSION.format(on_extension))
        if not self.config.adapter_only and wrapped:
            raise ValueError(
                "The host has PEFT adapters, which are not saved with a full model: merge them by merge_and_unload() "
                "of peft.PeftModel, or, if the base is known, set model.config.adapter_only = True."
            )
        if len(self.added_adapters) > 1:
            raise ValueError(
                f"Only one PEFT adapter can be saved with the memory, but the host has {self.added_adapters}."
            )
        if wrapped:
            _check_is_active(self, {*self._base_adapters, *self.added_adapters})


def _check_is_active(model: PreTrainedModel, names: set[str]) -> None:
    for key, module in model.named_modules():
        if not isinstance(module, _peft().tuners.tuners_utils.BaseTunerLayer):
            continue
        there = names & {*module._get_available_adapters()}
        if module.merged:
            raise ValueError(
                f"A PEFT adapter is merged into {key}: unmerge it, or merge it for good by merge_and_unload() and set "
                "model.config.adapter_only = False."
            )
        if there and (module.disable_adapters or {*module.active_adapters} & names != there):
            active = [] if module.disable_adapters else list(module.active_adapters)
            raise ValueError(
                f"All PEFT adapters are active after loading: {sorted(there)} at {key}, but now {active} are: call "
                "enable_adapters() and set_adapter(...), or delete_adapter(...)."
            )
        for name in there if hasattr(module, "lora_alpha") else ():
            scale, alpha, r = module.scaling[name], module.lora_alpha[name], module.r[name]
            if not any(math.isclose(scale, alpha / size) for size in (r, math.sqrt(r))):
                raise ValueError(f"The adapter {name!r} at {key} has the scale {scale}, which is not saved: reset it.")


def _targets_on(model: PreTrainedModel, config, children: tuple[str, ...]) -> list[str]:
    """Names of the modules and parameters, within these children of the model, that a PEFT adapter would change."""
    modules = {name: module for name, module in model.named_modules() if name.split(".")[0] in children}
    config = copy.copy(config)
    targets, to_save = getattr(config, "target_modules", None), getattr(config, "modules_to_save", None) or ()
    if isinstance(targets, str) and targets.lower() == "all-linear":
        config.target_modules = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
    found = [name for name in modules if any(name.endswith(wanted) for wanted in to_save)]
    if targets:
        found += [name for name in modules if _peft().tuners.tuners_utils.check_target_module_exists(config, name)]
    parameters = getattr(config, "target_parameters", None) or ()
    names = [f"{name}.{own}" for name, module in modules.items() for own, _ in module.named_parameters(recurse=False)]
    return found + [name for name in names if any(name.endswith(wanted) for wanted in parameters)]


def peft_adapters(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of a model's PEFT adapters."""
    return tuple(getattr(model, "peft_config", ()))


def save_lora(
    model: PreTrainedModel, name: str, folder: str | os.PathLike, state_dict: dict[str, Tensor] | None = None
) -> None:
    """Write the adapter `name` into `lora/` of the checkpoint in `folder`, for `load_lora` and for PEFT.

    Args:
        state_dict: weights to write instead of the model's own.
    """
    folder = Path(folder) / LORA_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    weights = _adapter_weights(model, name, state_dict)
    weights = {
        f"{_PREFIX}{key.removeprefix(_PREFIX)}": tensor.detach().cpu().contiguous() for key, tensor in weights.items()
    }
    config = copy.deepcopy(model.peft_config[name])
    config.inference_mode = True
    config.base_model_name_or_path = model.config.base_model_name_or_path
    # An attribute of PEFT's class, which transformers' protocol for it does not list.
    config.revision = model.config.base_model_revision  # type: ignore[attr-defined]
    config.save_pretrained(str(folder))
    save_file(weights, folder / _WEIGHTS_FILE, {"format": "pt"})


def has_lora(folder: str | os.PathLike) -> bool:
    """Whether the checkpoint in a folder includes a LoRA."""
    return all((Path(folder) / LORA_FOLDER / name).is_file() for name in LORA_FILES)


def remove_lora(folder: str | os.PathLike) -> None:
    """Remove the files that `save_lora` wrote for a checkpoint."""
    folder = Path(folder) / LORA_FOLDER
    for name in LORA_FILES:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def load_lora(model: PreTrainedModel, name: str | os.PathLike, hub: dict, *, is_needed: bool) -> bool:
    """Load the LoRA of a checkpoint onto the host, frozen, and active together with the base's adapters.

    Args:
        name: folder or Hub repo of the checkpoint, whose subfolder `lora/` is loaded.
        hub: keywords that reach it, as returned by `hub_keywords`.
        is_needed: whether the checkpoint's config says that it has a LoRA.

    Returns:
        Whether there was one.

    Raises:
        OSError: if a needed LoRA or its safetensors weights do not exist (pickles are never loaded).
        ImportError: if PEFT is not installed, or older than this transformers demands.
        ValueError: if its weights do not fit the host.
    """
    hub = {**hub, "subfolder": os.path.join(hub.get("subfolder") or "", LORA_FOLDER)}
    path = cached_file(name, _CONFIG_FILE, _raise_exceptions_for_missing_entries=is_needed, **hub)
    if path is None:
        return False
    peft = _peft()
    weights_path = cached_file(name, _WEIGHTS_FILE, **hub)
    if weights_path is None:
        raise OSError(f"The LoRA of {name} has no {_WEIGHTS_FILE}.")
    weights = _read_weights(weights_path)
    config = peft.PeftConfig.from_pretrained(os.path.dirname(path))
    config.inference_mode = True
    model.add_adapter(config, LORA_NAME)
    wrong = lora_misfits(model, LORA_NAME, weights)
    if wrong:
        raise ValueError(f"The LoRA of {name} does not fit its host: {wrong}.")
    parameters = {key: p for key, p in model.named_parameters() if LORA_NAME in key.split(".")}
    if any(parameter.is_meta for parameter in parameters.values()):
        raise ValueError(
            f"The LoRA of {name} is on offloaded blocks of the host, where it cannot be loaded: give a "
            "device_map that keeps them on devices."
        )
    for key, parameter in parameters.items():
        parameter.requires_grad_(False)
        saved = weights.get(key.replace(f".{LORA_NAME}", ""))
        if ".lora_" in key and saved is not None:
            # Keep the precision of training, which may be higher than the host's.
            parameter.data = parameter.data.to(saved.dtype)
    peft.set_peft_model_state_dict(model, weights, adapter_name=LORA_NAME)
    return True


def read_lora(folder: str | os.PathLike) -> dict[str, Tensor]:
    """The weights of the LoRA of the checkpoint in a folder, with the host's names."""
    return _read_weights(Path(folder) / LORA_FOLDER / _WEIGHTS_FILE)


def read_lora_config(folder: str | os.PathLike):
    """The `peft.LoraConfig` of the LoRA of the checkpoint in a folder."""
    return _peft().PeftConfig.from_pretrained(str(Path(folder) / LORA_FOLDER))


def _read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    return {key.removeprefix(_PREFIX): tensor for key, tensor in load_file(path).items()}


def lora_misfits(model: PreTrainedModel, name: str, weights: dict[str, Tensor]) -> list[str]:
    """Weights that only one of the adapter `name` and `weights` has; if there are none, those of different shapes."""
    own = _adapter_weights(model, name)
    return sorted({*own} ^ {*weights}) or sorted(key for key in own if own[key].shape != weights[key].shape)


def _adapter_weights(
    model: PreTrainedModel, name: str, state_dict: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    # False: PEFT would otherwise ask the Hub whether the embeddings were changed; here they never are.
    return _peft().get_peft_model_state_dict(
        model, state_dict=state_dict, adapter_name=name, save_embedding_layers=False
    )


def _peft():
    """Import PEFT, only where it is needed.

    Raises:
        ImportError: if it is not installed, or older than this transformers demands.
    """
    try:  # Inside `try`, since transformers would otherwise require PEFT from everybody who loads this code.
        import peft
    except ImportError as error:
        raise ImportError("The model has a LoRA, which needs PEFT: pip install peft") from error
    problem = peft_problem()
    if problem is not None:
        raise ImportError(problem)
    return peft


def peft_problem() -> str | None:
    """Why every adapter will fail with the installed versions; None if none will, or without PEFT."""
    if not is_peft_available():
        return None
    try:
        check_peft_version(min_version=MIN_PEFT_VERSION)
    except ValueError:
        return (
            f"transformers {__version__} needs PEFT {MIN_PEFT_VERSION} or newer for any LoRA, and "
            f"{metadata.version('peft')} is installed: pip install --upgrade peft, or pip install 'transformers<5.24'."
        )
    return None
