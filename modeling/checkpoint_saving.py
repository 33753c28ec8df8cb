"""Saving a model with memory, in full or as an adapter that names its base, and what travels along."""

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

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from .host_lora import HostLoraMixin, remove_lora, save_lora
from .model_identity import changed_weights, weights_fingerprint


# The children that this project adds to a host.
EXTENSION_NAMES = ("titans_memory", "emotion_head", "emotion_values_head")

# The auto classes that find the model in a repo that holds its code.
_AUTO_MODELS = ("AutoModelForAudioEmotion", "AutoModelForMultimodalLM", "AutoModel")

# Files of weights, of which a folder must hold those of one saving only.
WEIGHT_FILES = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_REPO_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_repo_name(name: str | None) -> bool:
    """Whether a checkpoint is named as one of the Hub, and not as a folder."""
    return name is not None and _REPO_NAME.fullmatch(name) is not None and not name.startswith(".")


def check_base_is_public(config: PreTrainedConfig) -> None:
    """Refuse to publish an adapter whose base nobody else has.

    Raises:
        ValueError: if it is a folder.
    """
    base = config.base_model_name_or_path
    if config.adapter_only and not is_repo_name(base):
        raise ValueError(
            f"The base of this adapter is {base}, a folder that nobody else has. Publish the base first, load the "
            'adapter with base_model_name_or_path="org/name" and base_model_revision=its commit, and save it again; '
            "or set model.config.adapter_only = False and save in full."
        )


class CheckpointSavingMixin(HostLoraMixin):
    """`save_pretrained` and `push_to_hub` of a host with memory."""

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
            ValueError: for an adapter whose host was changed since it was loaded, that has no base, or that would
                overwrite it; for adapters of PEFT that would be lost, as `check_adapters` says; for a `state_dict`
                without all of memory and readout; and for `push_to_hub`.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError(
                "save_pretrained does not publish: model.push_to_hub(repo_id) does, with all that belongs to it."
            )
        own_peft = getattr(self, "_hf_peft_config_loaded", False)
        self.check_adapters()
        state, weights = self.state_dict() if state_dict is None else state_dict, state_dict
        extension = {key: tensor for key, tensor in state.items() if key.split(".")[0] in EXTENSION_NAMES}
        missing = sorted({key for key in self.state_dict() if key.split(".")[0] in EXTENSION_NAMES} - {*extension})
        if missing:
            raise ValueError(f"The state_dict lacks {len(missing)} weights of memory and readout: {missing[:3]}, ...")
        if self.config.adapter_only:
            self._check_host_is_unchanged(state)
            self._check_is_not_the_base(save_directory)
            weights = extension
            # And under its own names, whatever the base's files call what they hold.
            kwargs |= {"max_shard_size": sys.maxsize, "save_original_format": False}
        memory = {key.partition(".")[2]: t for key, t in extension.items() if key.startswith("titans_memory.")}
        fingerprint = weights_fingerprint(memory)
        config, quantizer = self.config, getattr(self, "hf_quantizer", None)
        try:
            self.config = copy.deepcopy(config)
            self.config.memory_config.weights_fingerprint = fingerprint
            self.config.has_lora = bool(self.added_adapters)
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

    def _check_host_is_unchanged(self, state: dict[str, Tensor]) -> None:
        in_full = "Set model.config.adapter_only = False to save in full."
        before = getattr(self, "_host_checksums", None)
        if before is None or self.config.base_model_name_or_path is None:
            raise ValueError(f"The model was not loaded as base and adapter, so no base can be named. {in_full}")
        changed = changed_weights(before, state, without=EXTENSION_NAMES, added=tuple(self.added_adapters))
        if changed:
            raise ValueError(
                f"{len(changed)} weights of the host differ from those of {self.config.base_model_name_or_path}"
                f" ({', '.join(changed[:3])}, ...); an adapter would lose them. {in_full}"
            )

    def _check_is_not_the_base(self, folder: str | os.PathLike) -> None:
        base = self.config.base_model_name_or_path
        if os.path.isdir(folder) and os.path.isdir(base) and os.path.samefile(folder, base):
            raise ValueError(f"{folder} is the base of this adapter, which would be overwritten: save it elsewhere.")


def _remove_weights(folder: Path) -> None:
    """Those of an earlier saving, whose shards may not be overwritten."""
    for path in folder.iterdir():
        if WEIGHT_FILES.fullmatch(path.name):
            path.unlink()


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
