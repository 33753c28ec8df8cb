"""Making, loading and saving a model with memory: in full, or as an adapter that names its base."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.dynamic_module_utils import get_relative_import_files

from .checkpoint_files import (
    LOCATION_KEYWORDS,
    check_location,
    commit_of,
    hub_keywords,
    load_adapter_weights,
    load_generation_config,
    load_processor,
)
from .configuration_titans_mal import DEFAULT_EMOTION_PROMPT, AudioEmotionConfigMixin, TitansMemoryConfig
from .host_checksums import host_checksums
from .memory_placement import keep_memory_with_its_blocks
from .titans_memory_layer import weights_fingerprint


# The children that this project adds to a host.
EXTENSION_NAMES = ("titans_memory", "emotion_head")

# What belongs to an adapter's own files, and not to those of its base.
_ADAPTER_KEYWORDS = (*LOCATION_KEYWORDS, "code_revision", "adapter_kwargs", "variant")

# The auto classes that find the model in a repo that holds its code.
_AUTO_MODELS = ("AutoModelForAudioEmotion", "AutoModelForMultimodalLM", "AutoModel")


class AudioEmotionCheckpointMixin:
    """`from_base`, `from_pretrained` and `save_pretrained` of a host with memory."""

    # A processor that is saved along, or where one may be found when it is asked for.
    _processor = None
    _processor_source: tuple | None = None
    _host_keys_missing: set[str] | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        host = cls.host_class()
        if host is None:
            return
        # transformers renames the keys of a Hub checkpoint for its own classes only.
        names = (host.__name__, host.config_class.model_type)
        mapping = next(filter(None, map(get_checkpoint_conversion_mapping, names)), None)
        if mapping is not None:
            register_checkpoint_conversion_mapping(cls.__name__, mapping, overwrite=True)

    @classmethod
    def host_class(cls) -> type[PreTrainedModel] | None:
        """The host's own model class; None for a class that is mixed with no host yet."""
        models = (base for base in cls.__mro__ if issubclass(base, PreTrainedModel))
        return next((base for base in models if not issubclass(base, AudioEmotionCheckpointMixin)), None)

    @property
    def processor(self):
        """The host's processor, where it is known: that of the base or of the folder that the model came from."""
        if self._processor is None and self._processor_source is not None:
            source, self._processor_source = self._processor_source, None
            # Where this very code came from the repo, it is trusted already.
            trust = True if type(self).__module__.startswith("transformers_modules.") else None
            self._processor = load_processor(*source, is_needed=False, trust_remote_code=trust)
        return self._processor

    @processor.setter
    def processor(self, processor) -> None:
        self._processor = processor

    @property
    def extension_names(self) -> tuple[str, ...]:
        """The children that the model has beside its host's."""
        return tuple(name for name in EXTENSION_NAMES if hasattr(self, name))

    @classmethod
    def from_base(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        id2label: dict[int, str],
        memory_config: TitansMemoryConfig | dict | None = None,
        emotion_readout: str = "verbalizer",
        emotion_prompt: str = DEFAULT_EMOTION_PROMPT,
        **kwargs,
    ):
        """A host checkpoint plus a fresh memory, which leaves its output as it is.

        Args:
            pretrained_model_name_or_path: folder or Hub repo of the host.
            id2label: the emotion labels, numbered from 0.
            memory_config: None = the defaults of `TitansMemoryConfig`.
            emotion_readout: "verbalizer" or "linear".
            emotion_prompt: what the user turn asks after the audio; `{labels}` stands for the labels.
            kwargs: of the host's `from_pretrained` (dtype, device_map, revision, ...).

        Raises:
            ValueError: for a checkpoint of another host, labels that the tokenizer cannot tell apart, a wrong memory
                configuration, or a checkpoint that lacks weights of the host; nothing is loaded before the checks.
        """
        check_location(pretrained_model_name_or_path)
        hub = hub_keywords(kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        native = kwargs.pop("config", None) or AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        try:
            fields = cls.config_class.fields_of_host(native)
        except ValueError as error:
            raise ValueError(f"{cls.__name__} cannot extend {pretrained_model_name_or_path}: {error}") from None
        if isinstance(memory_config, dict):
            memory_config = TitansMemoryConfig(**memory_config)
        is_folder = os.path.isdir(pretrained_model_name_or_path)
        name = os.path.abspath(pretrained_model_name_or_path) if is_folder else str(pretrained_model_name_or_path)
        fields |= {
            "id2label": id2label,
            "memory_config": memory_config,
            "emotion_readout": emotion_readout,
            "emotion_prompt": emotion_prompt,
            "adapter_only": True,
            "base_model_name_or_path": name,
            "base_model_revision": commit_of(pretrained_model_name_or_path, hub),
            "base_model_subfolder": hub.get("subfolder", ""),
        }
        config = cls.config_class(**fields)
        processor = load_processor(name, hub, is_needed=emotion_readout == "verbalizer")
        if emotion_readout == "verbalizer":
            config.label_token_ids = cls.label_tokens_of(config, processor)
        model, info = cls._load_host(name, config, kwargs)
        model.processor = processor
        if model.generation_config.eos_token_id is None:
            # A larger checkpoint keeps it for its own `generate`.
            tokenizer = getattr(processor, "tokenizer", None)
            own = getattr(config, "eos_token_id", None)
            model.generation_config.eos_token_id = own if own is not None else getattr(tokenizer, "eos_token_id", None)
        return (model, info) if wants_info else model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Load a folder or repo that `save_pretrained` wrote; an adapter-only one loads its base as well.

        Args:
            kwargs: of transformers' `from_pretrained`, and fields of the configuration. For an adapter, what says how
                the weights are loaded (dtype, device_map, ...) goes to the base, whose name and revision the adapter's
                config holds.

        Raises:
            FileNotFoundError: for a folder that does not exist, be it that of the base.
            ValueError: if weights are missing, or those of the adapter are not those that its config describes.
        """
        check_location(pretrained_model_name_or_path)
        hub = hub_keywords(kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        if not isinstance(config, PreTrainedConfig):
            own = {field.name for field in dataclasses.fields(AudioEmotionConfigMixin)} | {"id2label"}
            changes = {key: kwargs.pop(key) for key in own & {*kwargs}}
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub, **changes)
        load = cls._load_adapter if config.adapter_only else cls._load_full
        model, info = load(pretrained_model_name_or_path, config, kwargs)
        model._processor_source = (pretrained_model_name_or_path, hub)
        return (model, info) if wants_info else model

    @classmethod
    def _load_full(cls, name, config, kwargs):
        model, info = super().from_pretrained(name, config=config, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise ValueError(f"{name} lacks weights of {cls.__name__}: {sorted(info['missing_keys'])}.")
        _keep_extension_precise(model)
        keep_memory_with_its_blocks(model, is_fresh=False)
        return model, info

    @classmethod
    def _load_adapter(cls, name, config, kwargs):
        hub, base = hub_keywords(kwargs), config.base_model_name_or_path
        if base is None:
            raise ValueError(f"The config of the adapter {name} names no base: base_model_name_or_path is None.")
        check_location(base, f"base of the adapter {name},")
        weights = load_adapter_weights(name, hub, kwargs.get("variant"))
        base_kwargs = {key: value for key, value in kwargs.items() if key not in _ADAPTER_KEYWORDS}
        where = {"revision": config.base_model_revision, "subfolder": config.base_model_subfolder}
        model, info = cls._load_host(base, config, base_kwargs | where)
        _copy_extension(model, weights, name)
        model.generation_config = load_generation_config(name, hub) or model.generation_config
        return model, info

    @classmethod
    def _load_host(cls, name, config, kwargs):
        """The host's weights with a fresh extension, and a record of what they were."""
        model, info = super().from_pretrained(name, config=config, output_loading_info=True, **kwargs)
        missing = sorted({*info["missing_keys"], *model._host_keys_missing})
        if missing:
            raise ValueError(f"{name} lacks weights of the host: {missing}.")
        _keep_extension_precise(model)
        keep_memory_with_its_blocks(model, is_fresh=True)
        model._host_checksums = host_checksums(model, without=EXTENSION_NAMES)
        return model, info

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        super()._adjust_missing_and_unexpected_keys(loading_info)
        # The first report is the host's; that of a LoRA in the base's folder follows, and alone is returned.
        if self._host_keys_missing is None:
            self._host_keys_missing = set(loading_info.missing_keys)

    def save_pretrained(self, save_directory: str | os.PathLike, *, state_dict: dict | None = None, **kwargs) -> None:
        """Write model, config, code and, where known, the processor.

        With `config.adapter_only`, memory and readout only, and the base by name and revision; else everything.

        Args:
            save_directory: is made if it does not exist.
            state_dict: weights to be written instead of the present ones; filtered for an adapter.
            kwargs: of transformers' `save_pretrained`; an adapter is one file, whatever `max_shard_size`.

        Raises:
            ValueError: for an adapter whose host was changed since it was loaded, or that has no base, and for a model
                whose host carries adapters of PEFT, which are not saved along.
        """
        own_peft = getattr(self, "_hf_peft_config_loaded", False)
        if self.config.adapter_only:
            self._check_host_is_unchanged()
            state_dict = {
                key: tensor
                for key, tensor in (self.state_dict() if state_dict is None else state_dict).items()
                if key.split(".")[0] in EXTENSION_NAMES
            }
            # And under its own names, whatever the base's files call what they hold.
            kwargs |= {"max_shard_size": sys.maxsize, "save_original_format": False}
        elif any(".base_layer." in key for key in self.state_dict()):
            raise ValueError(
                "The host carries adapters of PEFT, which are not saved with a model in full: merge them into the "
                "host, or set model.config.adapter_only = True where they came with the base."
            )
        fingerprint = weights_fingerprint(self._memory_weights(state_dict))
        config = self.config
        try:
            self.config = copy.deepcopy(config)
            self.config.memory_config.weights_fingerprint = fingerprint
            # What the base carries itself (Granite Speech its LoRA) comes with the base.
            self._hf_peft_config_loaded = own_peft and not config.adapter_only
            if kwargs.get("is_main_process", True):
                self._save_code(save_directory)
                if self.processor is not None:
                    self.processor.save_pretrained(save_directory)
            super().save_pretrained(str(save_directory), state_dict=state_dict, **kwargs)
        finally:
            self.config, self._hf_peft_config_loaded = config, own_peft

    def _memory_weights(self, state_dict: dict | None) -> dict[str, Tensor]:
        prefix = "titans_memory."
        if state_dict is None:
            return self.titans_memory.state_dict()
        return {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}

    def _save_code(self, folder) -> None:
        """Copy the model's own code, and name it in the config, for machines without this package."""
        source = Path(sys.modules[type(self).__module__].__file__)
        names = {"AutoConfig": type(self.config), **dict.fromkeys(_AUTO_MODELS, type(self))}
        self.config.auto_map = {key: f"{source.stem}.{value.__name__}" for key, value in names.items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in {source, *map(Path, get_relative_import_files(source))}:
            shutil.copyfile(file, Path(folder) / file.name)

    def _check_host_is_unchanged(self) -> None:
        in_full = "Set model.config.adapter_only = False to save in full."
        before = getattr(self, "_host_checksums", None)
        if before is None or self.config.base_model_name_or_path is None:
            raise ValueError(f"The model was not loaded as base and adapter, so no base can be named. {in_full}")
        after = host_checksums(self, without=EXTENSION_NAMES)
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        if any(".base_layer." in key for key in changed):
            raise ValueError(
                f"The host carries adapters of PEFT that its base does not have: merge them into the host. {in_full}"
            )
        if changed:
            raise ValueError(
                f"{len(changed)} weights of the host differ from those of {self.config.base_model_name_or_path}"
                f" ({', '.join(changed[:3])}, ...); an adapter would lose them. {in_full}"
            )


def _copy_extension(model, weights: dict[str, Tensor], name) -> None:
    own = {key: tensor for key, tensor in model.state_dict().items() if key.split(".")[0] in EXTENSION_NAMES}
    wrong = sorted({*own} ^ {*weights}) or sorted(key for key in own if own[key].shape != weights[key].shape)
    if wrong:
        raise ValueError(f"The adapter {name} does not hold the weights that its config describes: {wrong}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(weights[key])


def _keep_extension_precise(model) -> None:
    """float32 whatever the host is, float64 in a float64 one; transformers creates what is missing in its dtype."""
    for name in model.extension_names:
        getattr(model, name).to(torch.float64 if model.dtype == torch.float64 else torch.float32)
