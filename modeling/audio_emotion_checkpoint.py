"""Create and load a model with memory: in full, or as an adapter that names its base."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.utils import logging

from .checkpoint_files import (
    LOCATION_KEYWORDS,
    check_finite_weights,
    check_location,
    commit_of,
    hub_keywords,
    load_adapter_weights,
    load_generation_config,
    load_processor,
    readable_checkpoint,
)
from .checkpoint_saving import EXTENSION_NAMES, CheckpointSavingMixin, is_of_extension
from .configuration_titans_mal import DEFAULT_EMOTION_PROMPT, AudioEmotionConfigMixin
from .configuration_titans_memory import TitansMemoryConfig
from .host_lora import load_lora, peft_adapters
from .memory_placement import keep_memory_with_its_blocks
from .model_identity import differing_shape, host_checksums, host_fingerprint, is_other_host
from .shortened import shortened


logger = logging.get_logger(__name__)

# Location fields that describe an adapter's own files rather than those of its base.
_BASE_FIELDS = ("base_model_name_or_path", "base_model_revision", "base_model_subfolder")
_ADAPTER_KEYWORDS = (*LOCATION_KEYWORDS, "code_revision", "adapter_kwargs", "variant")


class AudioEmotionCheckpointMixin(CheckpointSavingMixin):
    """`from_base` and `from_pretrained` of a host with memory, and saving.

    Attributes:
        loaded_from: the folder or repo given to `from_pretrained`, and the keywords needed to reach it, as returned by
            `hub_keywords`; None for a model that `from_pretrained` did not create.
    """

    loaded_from: tuple[str, dict] | None = None
    # The processor that is saved with the model, or where to load it from on first use.
    _processor = None
    _processor_source: tuple | None = None
    _host_keys_missing: set[str] | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        host = cls.host_class()
        if host is None:
            return
        # transformers renames the keys of a Hub checkpoint only for its own classes.
        names = (host.__name__, host.config_class.model_type)
        mapping = next(filter(None, map(get_checkpoint_conversion_mapping, names)), None)
        if mapping is not None:
            register_checkpoint_conversion_mapping(cls.__name__, mapping, overwrite=True)

    @classmethod
    def host_class(cls) -> type[PreTrainedModel] | None:
        """The host's model class; None for a mixin class that has no host yet."""
        models = (base for base in cls.__mro__ if issubclass(base, PreTrainedModel))
        return next((base for base in models if not issubclass(base, AudioEmotionCheckpointMixin)), None)

    @property
    def processor(self):
        """The host's processor, from the base or from the model's folder; None if unknown."""
        if self._processor is None and self._processor_source is not None:
            source, self._processor_source = self._processor_source, None
            # If this code itself was loaded from the repo, the user has already trusted it.
            trust = type(self).__module__.startswith("transformers_modules.")
            self._processor = load_processor(*source, is_needed=False, trust_remote_code=trust)
        return self._processor

    @processor.setter
    def processor(self, processor) -> None:
        self._processor = processor

    @classmethod
    def from_base(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        id2label: dict[int, str],
        memory_config: TitansMemoryConfig | dict | None = None,
        emotion_readout: str | None = "verbalizer",
        emotion_dimensions: Sequence[str] = (),
        emotion_prompt: str = DEFAULT_EMOTION_PROMPT,
        label_words: dict[str, str] | None = None,
        **kwargs,
    ):
        """Load a host checkpoint and add a new memory, which leaves the host's output unchanged.

        The host is frozen, also when an adapter is loaded: memory and readout are trained, and a LoRA added by
        `add_adapter`. `requires_grad_(True)` unfreezes it, for a model that is saved in full.

        Args:
            pretrained_model_name_or_path: folder or Hub repo of the host.
            id2label: the emotion labels, numbered from 0.
            memory_config: None = the defaults of `TitansMemoryConfig`.
            emotion_readout: "verbalizer", "linear", "audio", or None to predict `emotion_dimensions` only.
            emotion_dimensions: names of the continuous dimensions to predict, such as "valence"; default: none.
            emotion_prompt: the instruction after the audio; `{labels}` is replaced by the labels' words.
            label_words: the words for some of the labels in prompt and answer, as {"fear": "fearful"}; default: the
                labels themselves. If words share a first token, the verbalizer scores them whole.
            kwargs: arguments for the host's `from_pretrained` (dtype, device_map, revision, ...).

        Raises:
            ValueError: for a checkpoint of another host, labels that share a first token, an invalid memory
                configuration, or a checkpoint with missing or non-finite weights. All but the last are checked before
                any weights are loaded.
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
            "emotion_dimensions": emotion_dimensions,
            "emotion_prompt": emotion_prompt,
            "label_words": label_words,
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
        check_finite_weights(model, pretrained_model_name_or_path)
        model.config.base_fingerprint = model._loaded_fingerprint
        model.processor = processor
        trained, total = model.get_nb_trainable_parameters()
        logger.warning(
            f"The host is frozen: {trained:,d} of {total:,d} parameters are trainable (memory and readout)."
        )
        if model.generation_config.eos_token_id is None:
            # A larger checkpoint may keep it in the generation config of the whole model only.
            tokenizer = getattr(processor, "tokenizer", None)
            own = getattr(config, "eos_token_id", None)
            model.generation_config.eos_token_id = own if own is not None else getattr(tokenizer, "eos_token_id", None)
        return (model, info) if wants_info else model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Load a folder or repo written by `save_pretrained`; for an adapter-only checkpoint, its base as well.

        Args:
            kwargs: arguments for transformers' `from_pretrained`, and fields of the configuration. For an adapter,
                loading options (dtype, device_map, ...) apply to the base, which the adapter's config names with its
                revision.

        Raises:
            FileNotFoundError: for a folder that does not exist, the base's included.
            ValueError: if weights are missing or not finite, if those of memory, readout or adapter do not match the
                config, or for an `id2label` that gives labels of the checkpoint other ids.
        """
        check_location(pretrained_model_name_or_path)
        hub = hub_keywords(kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        with readable_checkpoint(pretrained_model_name_or_path):
            if not isinstance(config, PreTrainedConfig):
                own = {field.name for field in dataclasses.fields(AudioEmotionConfigMixin)} | {"id2label"}
                changes = {key: kwargs.pop(key) for key in own & {*kwargs}}
                config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub, **changes)
            load = cls._load_adapter if config.adapter_only else cls._load_full
            model, info = load(pretrained_model_name_or_path, config, kwargs)
            check_finite_weights(model, pretrained_model_name_or_path)
        model._processor_source = (pretrained_model_name_or_path, hub)
        model.loaded_from = (str(pretrained_model_name_or_path), hub)
        # Computed once here, so that no call needs to hash the weights.
        model.titans_memory.fingerprint()
        return (model, info) if wants_info else model

    @classmethod
    def _load_full(cls, name, config, kwargs):
        model, info = super().from_pretrained(name, config=config, output_loading_info=True, **_safe(kwargs))
        if info["missing_keys"]:
            raise ValueError(f"{name} lacks weights of {cls.__name__} ({shortened(sorted(info['missing_keys']), 5)}).")
        unused = [key for key in info["unexpected_keys"] if is_of_extension(key)]
        if unused:
            raise ValueError(
                f"{name} has weights of memory or readout that its config does not describe ({shortened(unused, 5)})."
            )
        _keep_extension_precise(model)
        keep_memory_with_its_blocks(model, is_fresh=False)
        return model, info

    @classmethod
    def _load_adapter(cls, name, config, kwargs):
        hub, base = hub_keywords(kwargs), config.base_model_name_or_path
        if base is None:
            raise ValueError(f"The config of the adapter {name} has no base: base_model_name_or_path is None.")
        check_location(base, f"base of the adapter {name},")
        weights = load_adapter_weights(name, hub, kwargs.get("variant"))
        base_kwargs = {key: value for key, value in kwargs.items() if key not in _ADAPTER_KEYWORDS}
        base_kwargs |= {"revision": config.base_model_revision, "subfolder": config.base_model_subfolder}
        commit = cls._check_base(name, config, base_kwargs)
        model, info = cls._load_host(base, config, base_kwargs)
        written, _ = PreTrainedConfig.get_config_dict(name, **hub)
        is_other_base = any(written.get(field) != getattr(config, field) for field in _BASE_FIELDS)
        # If the adapter itself names the commit of a Hub repo, no further check is needed.
        is_proven = commit is not None and not is_other_base
        if not is_proven and is_other_host(config.base_fingerprint, model._loaded_fingerprint):
            raise ValueError(
                f"The base {base} is not the host that the adapter {name} was made for: its weights' fingerprint is "
                f"{model._loaded_fingerprint}, not {config.base_fingerprint}. base_fingerprint=None skips this check."
            )
        model.config.base_model_revision = commit
        if is_other_base:
            model.config.base_fingerprint = model._loaded_fingerprint
        _copy_extension(model, weights, name)
        model.config.has_lora = load_lora(model, name, hub, is_needed=config.has_lora)
        model.generation_config = load_generation_config(name, hub) or model.generation_config
        return model, info

    @classmethod
    def _check_base(cls, name, config, kwargs) -> str | None:
        """The commit of an adapter's base (None for a folder); checks its configuration before weights are loaded."""
        base, revision = config.base_model_name_or_path, config.base_model_revision
        described = f"The base {base}{f' at revision {revision}' if revision else ''} of the adapter {name}"
        hub = hub_keywords(kwargs)
        try:
            native = AutoConfig.from_pretrained(base, **hub)
            commit = commit_of(base, hub)
        except (OSError, ValueError) as error:
            raise OSError(f"{described} cannot be loaded: {error}") from error
        try:
            fields = cls.config_class.fields_of_host(native)
        except ValueError as error:
            raise ValueError(f"{described} is not the host that it was made for: {error}") from None
        # Both configurations are expressed in the same version of transformers.
        differing = differing_shape(cls.config_class.host_class()(**fields), config)
        if differing:
            listed = ", ".join(f"{field} is {one}, expected {other}" for field, (one, other) in differing.items())
            raise ValueError(f"{described} is not the host that it was made for: {listed}.")
        if commit is not None and revision is not None and _is_commit(revision) and commit != revision:
            raise ValueError(f"{described} is not the host that it was made for: it was loaded at revision {commit}.")
        return commit

    @classmethod
    def _load_host(cls, name, config, kwargs):
        """Load the host's weights with a new memory and readout, and record the host's checksums."""
        model, info = super().from_pretrained(name, config=config, output_loading_info=True, **_safe(kwargs))
        missing = {*info["missing_keys"], *model._host_keys_missing}
        if missing:
            raise ValueError(f"{name} lacks weights of the host ({shortened(sorted(missing), 5)}).")
        _keep_extension_precise(model)
        keep_memory_with_its_blocks(model, is_fresh=True)
        model.freeze_host()
        model._base_adapters = peft_adapters(model)
        model._host_checksums = host_checksums(model.state_dict(), without=EXTENSION_NAMES)
        model._loaded_fingerprint = host_fingerprint(model._host_checksums)
        return model, info

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        super()._adjust_missing_and_unexpected_keys(loading_info)
        # The first call reports on the host; a second one, for a LoRA in the base's folder, would replace it.
        if self._host_keys_missing is None:
            self._host_keys_missing = set(loading_info.missing_keys)


def _copy_extension(model, weights: dict[str, Tensor], name) -> None:
    own = {key: tensor for key, tensor in model.state_dict().items() if is_of_extension(key)}
    wrong = sorted({*own} ^ {*weights}) or sorted(key for key in own if own[key].shape != weights[key].shape)
    if wrong:
        raise ValueError(f"The adapter {name} does not hold the weights that its config describes: {wrong}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(weights[key])


def _keep_extension_precise(model) -> None:
    """Use float64 in a float64 model, else float32; transformers creates missing weights in the model's dtype."""
    for name in model.extension_names:
        getattr(model, name).to(torch.float64 if model.dtype == torch.float64 else torch.float32)


def _safe(kwargs: dict) -> dict:
    """The loading keywords, restricted to safetensors: unpickling could run arbitrary code."""
    if kwargs.get("use_safetensors") is False:
        raise ValueError("Weights are loaded from safetensors only: use_safetensors=False is not allowed.")
    return {**kwargs, "use_safetensors": True}


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None
