"""Save a model with memory, in full or as an adapter that names its base, together with its code."""

from __future__ import annotations

import copy
import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from .host_lora import HostLoraMixin, remove_lora, save_lora
from .model_identity import changed_weights, weights_fingerprint
from .shortened import shortened


# The modules that this project adds to a host.
EXTENSION_NAMES = ("titans_memory", "emotion_head", "emotion_values_head")
# The auto classes that a repo with code is loaded by.
_AUTO_MODELS = ("AutoModelForAudioEmotion", "AutoModelForMultimodalLM", "AutoModel")

# Weights files; those of an earlier save are removed.
WEIGHT_FILES = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_REPO_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_of_extension(key: str) -> bool:
    """Whether a weight, by its name in a model's `state_dict`, is of memory or readout and not of the host."""
    return key.split(".")[0] in EXTENSION_NAMES


def is_repo_name(name: str | None) -> bool:
    """Whether a checkpoint's name is that of a Hub repo rather than a folder."""
    return name is not None and _REPO_NAME.fullmatch(name) is not None and not name.startswith(".")


def check_base_is_public(config: PreTrainedConfig) -> None:
    """Check that an adapter's base is on the Hub, since others cannot load a local folder.

    Raises:
        ValueError: if the base is a folder.
    """
    base = config.base_model_name_or_path
    if config.adapter_only and not is_repo_name(base):
        raise ValueError(
            f"The base of this adapter is the local folder {base}, which others cannot load. Publish the base first, "
            'load the adapter with base_model_name_or_path="org/name" and base_model_revision=<commit>, and save it '
            "again; or set model.config.adapter_only = False to save in full."
        )


class CheckpointSavingMixin(HostLoraMixin):
    """`save_pretrained` and `push_to_hub` of a host with memory."""

    # Publishes a model with its card and endpoint handler; set by titans_mal, None where only this code is present.
    publisher: ClassVar[Callable | None] = None

    @property
    def extension_names(self) -> tuple[str, ...]:
        """The modules that the model has in addition to its host's."""
        return tuple(name for name in EXTENSION_NAMES if hasattr(self, name))

    def save_pretrained(  # type: ignore[override]  # keyword-only, and publishes nothing
        self, save_directory: str | os.PathLike, *, state_dict: dict | None = None, **kwargs
    ) -> None:
        """Write model, config, code and, if known, the processor.

        With `config.adapter_only`, this is memory and readout, a LoRA on the host (in the subfolder `lora/`), and the
        base's name and revision; otherwise all weights.

        Args:
            save_directory: created if it does not exist.
            state_dict: weights to write instead of the model's own; filtered for an adapter.
            kwargs: arguments for transformers' `save_pretrained`; an adapter is one file, whatever `max_shard_size`.

        Raises:
            ValueError: for an adapter whose host was changed after loading, that has no base, or that would overwrite
                its base; for PEFT adapters that cannot be saved (see `check_adapters`); for a `state_dict` that lacks
                weights of memory or readout; and for `push_to_hub=True`.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError(
                "save_pretrained does not publish: use model.push_to_hub(repo_id), which adds all needed files."
            )
        own_peft = getattr(self, "_hf_peft_config_loaded", False)
        self.check_adapters()
        state, weights = self.state_dict() if state_dict is None else state_dict, state_dict
        extension = {key: tensor for key, tensor in state.items() if is_of_extension(key)}
        missing = sorted({key for key in self.state_dict() if is_of_extension(key)} - {*extension})
        if missing:
            raise ValueError(
                f"The state_dict lacks {len(missing)} weights of memory and readout ({shortened(missing)})."
            )
        if self.config.adapter_only:
            self._check_host_is_unchanged(state)
            self._check_is_not_the_base(save_directory)
            weights = extension = self._in_adapter_dtype(extension)
            # One file, with this model's weight names even if the base's files use other names.
            kwargs |= {"max_shard_size": sys.maxsize, "save_original_format": False}
        memory = {key.partition(".")[2]: t for key, t in extension.items() if key.startswith("titans_memory.")}
        fingerprint = weights_fingerprint(memory)
        config, quantizer = self.config, getattr(self, "hf_quantizer", None)
        try:
            self.config = copy.deepcopy(config)
            self.config.memory_config.weights_fingerprint = fingerprint
            self.config.has_lora = bool(self.added_adapters)
            # PEFT adapters do not go into the model's own weights file.
            self._hf_peft_config_loaded = own_peft and not config.adapter_only
            if config.adapter_only and quantizer is not None:
                # Quantisation is an option for loading the base, unless the base itself was saved quantised.
                self.hf_quantizer = None
                if not quantizer.pre_quantized:
                    del self.config.quantization_config
            if kwargs.get("is_main_process", True):
                save_code(type(self), self.config, save_directory)
                if self.processor is not None:
                    self.processor.save_pretrained(save_directory)
                remove_lora(save_directory)
                for name in self.added_adapters:
                    save_lora(self, name, save_directory, state_dict)
                if kwargs.get("variant") is None:
                    _remove_weights(Path(save_directory))
            super().save_pretrained(str(save_directory), state_dict=weights, **kwargs)
        finally:
            self.config, self._hf_peft_config_loaded = config, own_peft
            if quantizer is not None:
                self.hf_quantizer = quantizer

    def push_to_hub(self, repo_id: str, **kwargs) -> str | None:  # type: ignore[override]  # keyword-only
        """Publish the model in one commit; if titans_mal is installed, with its card and endpoint handler.

        Args:
            repo_id: "org/name".
            kwargs: arguments for `titans_mal.publish_model`; without titans_mal, for transformers' `push_to_hub`.

        Returns:
            The URL of the commit; None if titans_mal was asked not to upload.

        Raises:
            ValueError: for an adapter whose base is a folder, and as `save_pretrained`; nothing is uploaded.
        """
        check_base_is_public(self.config)
        publisher = type(self).publisher
        if publisher is None:
            # What transformers wraps the method in loses its `self`.
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]
        return publisher(self, repo_id, **kwargs)

    def _in_adapter_dtype(self, extension: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as an adapter's file stores them: those of linear layers in `config.adapter_dtype`."""
        dtype = getattr(torch, self.config.adapter_dtype)
        linear = {f"{name}.weight" for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        return {
            key: tensor.to(dtype) if key in linear and dtype != torch.float32 else tensor
            for key, tensor in extension.items()
        }

    def _check_host_is_unchanged(self, state: dict[str, Tensor]) -> None:
        in_full = "Set model.config.adapter_only = False to save in full."
        before = getattr(self, "_host_checksums", None)
        if before is None or self.config.base_model_name_or_path is None:
            raise ValueError(f"The model was not loaded as base and adapter, so its base is unknown. {in_full}")
        changed = changed_weights(before, state, without=EXTENSION_NAMES, added=tuple(self.added_adapters))
        if changed:
            raise ValueError(
                f"{len(changed)} weights of the host differ from those of {self.config.base_model_name_or_path}"
                f" ({shortened(changed)}); an adapter would lose them. {in_full}"
            )

    def _check_is_not_the_base(self, folder: str | os.PathLike) -> None:
        base = self.config.base_model_name_or_path
        if os.path.isdir(folder) and os.path.isdir(base) and os.path.samefile(folder, base):
            raise ValueError(f"{folder} is the base of this adapter, which would be overwritten: save it elsewhere.")


def _remove_weights(folder: Path) -> None:
    """Remove the files of an earlier save, whose shards may not all be overwritten."""
    for path in folder.iterdir():
        if WEIGHT_FILES.fullmatch(path.name):
            path.unlink()


def save_code(model_class: type, config: PreTrainedConfig, folder: str | os.PathLike) -> None:
    """Copy a model's code into a folder and record it in `config`, so that it loads without titans_mal."""
    # Imported here and not at the top: transformers copies every file that a module imports from its folder.
    from .pipeline_audio_emotion import AudioEmotionPipeline, custom_pipelines

    source = Path(inspect.getfile(model_class))
    names = {"AutoConfig": type(config), **dict.fromkeys(_AUTO_MODELS, model_class)}
    config.auto_map = {key: f"{source.stem}.{value.__name__}" for key, value in names.items()}
    config.custom_pipelines = custom_pipelines()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in (source, Path(inspect.getfile(AudioEmotionPipeline))):
        for needed in {file, *map(Path, get_relative_import_files(file))}:
            shutil.copyfile(needed, Path(folder) / needed.name)
