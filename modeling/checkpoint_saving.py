"""Saving a model with memory, in full or as an adapter that names its base, and what travels along."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from .host_identity import host_checksums
from .host_lora import LORA_FOLDER, peft_adapters, remove_lora, save_lora
from .titans_memory_layer import weights_fingerprint


# The children that this project adds to a host.
EXTENSION_NAMES = ("titans_memory", "emotion_head")

# The auto classes that find the model in a repo that holds its code.
_AUTO_MODELS = ("AutoModelForAudioEmotion", "AutoModelForMultimodalLM", "AutoModel")


def check_base_is_public(config: PreTrainedConfig) -> None:
    """Refuse to publish an adapter whose base nobody else has.

    Raises:
        ValueError: if it is a folder.
    """
    base = config.base_model_name_or_path
    if config.adapter_only and (base is None or Path(base).is_absolute() or Path(base).is_dir()):
        raise ValueError(
            f"The base of this adapter is {base}, a folder that nobody else has. Publish the base first, load the "
            'adapter with base_model_name_or_path="org/name" and base_model_revision=its commit, and save it again; '
            "or set model.config.adapter_only = False and save in full."
        )


class CheckpointSavingMixin:
    """`save_pretrained` and `push_to_hub` of a host with memory."""

    # Names of PEFT's adapters that the base brought with it.
    _base_adapters: tuple[str, ...] = ()
    # Publishes a model with its card and endpoint; set by the package, which the code in a repo goes without.
    publisher: ClassVar[Callable | None] = None

    @property
    def extension_names(self) -> tuple[str, ...]:
        """The children that the model has beside its host's."""
        return tuple(name for name in EXTENSION_NAMES if hasattr(self, name))

    def save_pretrained(self, save_directory: str | os.PathLike, *, state_dict: dict | None = None, **kwargs) -> None:
        """Write model, config, code and, where known, the processor.

        With `config.adapter_only`, memory and readout only, a LoRA on the host in the sub-folder `lora/`, and the base
        by name and revision; else everything.

        Args:
            save_directory: is made if it does not exist.
            state_dict: weights to be written instead of the present ones; filtered for an adapter.
            kwargs: of transformers' `save_pretrained`; an adapter is one file, whatever `max_shard_size`.

        Raises:
            ValueError: for an adapter whose host was changed since it was loaded, or that has no base; for several
                adapters of PEFT, or one on the memory; and for a model in full whose host carries any.
        """
        own_peft = getattr(self, "_hf_peft_config_loaded", False)
        lora, weights = self._lora_to_save(), state_dict
        if self.config.adapter_only:
            self._check_host_is_unchanged()
            weights = {
                key: tensor
                for key, tensor in (self.state_dict() if state_dict is None else state_dict).items()
                if key.split(".")[0] in EXTENSION_NAMES
            }
            # And under its own names, whatever the base's files call what they hold.
            kwargs |= {"max_shard_size": sys.maxsize, "save_original_format": False}
        fingerprint = weights_fingerprint(self._memory_weights(weights))
        config, quantizer = self.config, getattr(self, "hf_quantizer", None)
        try:
            self.config = copy.deepcopy(config)
            self.config.memory_config.weights_fingerprint = fingerprint
            self.config.has_lora = lora is not None
            # PEFT's adapters do not go into the model's own file.
            self._hf_peft_config_loaded = own_peft and not config.adapter_only
            if config.adapter_only and quantizer is not None:
                # How the base is loaded is no property of the adapter, unless the base was saved like that.
                self.hf_quantizer = None
                if not quantizer.pre_quantized:
                    del self.config.quantization_config
            if kwargs.get("is_main_process", True):
                save_code(type(self), self.config, save_directory)
                if self.processor is not None:
                    self.processor.save_pretrained(save_directory)
                remove_lora(Path(save_directory) / LORA_FOLDER)
                if lora is not None:
                    save_lora(self, lora, Path(save_directory) / LORA_FOLDER, state_dict)
            super().save_pretrained(str(save_directory), state_dict=weights, **kwargs)
        finally:
            self.config, self._hf_peft_config_loaded = config, own_peft
            if quantizer is not None:
                self.hf_quantizer = quantizer

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Publish the model, in one commit; with the package installed, with its card and endpoint handler as well.

        Args:
            repo_id: "org/name".
            kwargs: of `titans_mal.publish_model`; without the package, of transformers' `push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: for an adapter whose base is a folder, and as `save_pretrained`; nothing is uploaded.
        """
        check_base_is_public(self.config)
        if self.publisher is None:
            return super().push_to_hub(repo_id, **kwargs)
        return type(self).publisher(self, repo_id, **kwargs)

    def _lora_to_save(self) -> str | None:
        """The name of PEFT's adapter that was added to the base; None without one."""
        added = [name for name in peft_adapters(self) if name not in self._base_adapters]
        wrapped = {
            key.split(".")[0] for key in self.state_dict() if ".base_layer." in key or ".original_module." in key
        }
        own = sorted(wrapped & {*EXTENSION_NAMES})
        if own:
            raise ValueError(
                f"An adapter of PEFT is on {own}, which is trained and saved by itself: choose target_modules and "
                "modules_to_save within the host."
            )
        if not self.config.adapter_only and wrapped:
            raise ValueError(
                "The host carries adapters of PEFT, which are not saved with a model in full: merge them into the "
                "host, or set model.config.adapter_only = True where the base is named."
            )
        if len(added) > 1:
            raise ValueError(f"One adapter of PEFT can be saved beside the memory, and the host carries {added}.")
        return added[0] if added else None

    def _memory_weights(self, state_dict: dict | None) -> dict[str, Tensor]:
        prefix = "titans_memory."
        if state_dict is None:
            return self.titans_memory.state_dict()
        return {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}

    def _check_host_is_unchanged(self) -> None:
        in_full = "Set model.config.adapter_only = False to save in full."
        before = getattr(self, "_host_checksums", None)
        if before is None or self.config.base_model_name_or_path is None:
            raise ValueError(f"The model was not loaded as base and adapter, so no base can be named. {in_full}")
        added = tuple(name for name in peft_adapters(self) if name not in self._base_adapters)
        after = host_checksums(self, without=EXTENSION_NAMES, without_adapters=added)
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        if changed:
            raise ValueError(
                f"{len(changed)} weights of the host differ from those of {self.config.base_model_name_or_path}"
                f" ({', '.join(changed[:3])}, ...); an adapter would lose them. {in_full}"
            )


def save_code(model_class: type, config: PreTrainedConfig, folder: str | os.PathLike) -> None:
    """Copy a model's code into a folder, and name it in `config`, for machines without this package."""
    # Named here for transformers too: it copies what a file imports from beside it.
    from .pipeline_audio_emotion import AudioEmotionPipeline, custom_pipelines

    source = Path(sys.modules[model_class.__module__].__file__)
    names = {"AutoConfig": type(config), **dict.fromkeys(_AUTO_MODELS, model_class)}
    config.auto_map = {key: f"{source.stem}.{value.__name__}" for key, value in names.items()}
    config.custom_pipelines = custom_pipelines()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in (source, Path(inspect.getfile(AudioEmotionPipeline))):
        for needed in {file, *map(Path, get_relative_import_files(file))}:
            shutil.copyfile(needed, Path(folder) / needed.name)
