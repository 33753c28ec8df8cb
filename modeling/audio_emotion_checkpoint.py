"""Making, loading and saving a model with memory: in full, or as an adapter that names its base."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file, extract_commit_hash, logging

from .configuration_titans_mal import DEFAULT_EMOTION_PROMPT, TitansMemoryConfig


logger = logging.get_logger(__name__)

# The children that this project adds to a host.
EXTENSION_NAMES = ("titans_memory", "emotion_head")

# What locates a repository; the base of an adapter has its own.
_REPO_KEYWORDS = ("revision", "subfolder", "code_revision", "adapter_kwargs")
_HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "token", "proxies")


class AudioEmotionCheckpointMixin:
    """`from_base`, `from_pretrained` and `save_pretrained` of a host with memory."""

    # The processor that is saved along, where it is known.
    processor = None

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
        hub = {key: kwargs[key] for key in (*_HUB_KEYWORDS, "revision", "subfolder") if key in kwargs}
        native = kwargs.pop("config", None) or AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        try:
            fields = cls.config_class.fields_of_host(native)
        except ValueError as error:
            raise ValueError(f"{cls.__name__} cannot extend {pretrained_model_name_or_path}: {error}") from None
        if isinstance(memory_config, dict):
            memory_config = TitansMemoryConfig(**memory_config)
        fields |= {
            "id2label": id2label,
            "memory_config": memory_config,
            "emotion_readout": emotion_readout,
            "emotion_prompt": emotion_prompt,
            "adapter_only": True,
            "base_model_name_or_path": str(pretrained_model_name_or_path),
            "base_model_revision": _commit_of(pretrained_model_name_or_path, hub),
        }
        config = cls.config_class(**fields)
        is_verbalizer = emotion_readout == "verbalizer"
        processor = _processor_of(pretrained_model_name_or_path, hub, is_needed=is_verbalizer)
        if is_verbalizer:
            config.label_token_ids = cls.label_tokens_of(config, processor)
        model = cls._load_host(pretrained_model_name_or_path, config, kwargs)
        model.processor = processor
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Load a folder or repo that `save_pretrained` wrote; an adapter-only one loads its base as well.

        Args:
            kwargs: of transformers' `from_pretrained`. For an adapter, what says how the weights are loaded (dtype,
                device_map, ...) goes to the base, whose name and revision the adapter's config holds.

        Raises:
            ValueError: if weights are missing, or those of the adapter are not those that its config describes.
        """
        if not isinstance(config, PreTrainedConfig):
            hub = {key: kwargs[key] for key in (*_HUB_KEYWORDS, "revision", "subfolder") if key in kwargs}
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub)
        if not config.adapter_only:
            return cls._load_full(pretrained_model_name_or_path, model_args, config, kwargs)
        weights = _adapter_weights(pretrained_model_name_or_path, kwargs)
        base_keywords = {key: value for key, value in kwargs.items() if key not in _REPO_KEYWORDS}
        model = cls._load_host(
            config.base_model_name_or_path, config, base_keywords | {"revision": config.base_model_revision}
        )
        _copy_extension(model, weights, pretrained_model_name_or_path)
        return model

    @classmethod
    def _load_full(cls, name, model_args, config, kwargs):
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(name, *model_args, config=config, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise ValueError(f"{name} lacks weights of {cls.__name__}: {sorted(info['missing_keys'])}.")
        _keep_extension_precise(model)
        return (model, info) if wants_info else model

    @classmethod
    def _load_host(cls, name, config, kwargs):
        """The host's weights with a fresh extension, and a record of what they were."""
        if name is None:
            raise ValueError("The adapter's config does not name its base: base_model_name_or_path is None.")
        kwargs = {key: value for key, value in kwargs.items() if key != "output_loading_info"}
        model, info = super().from_pretrained(name, config=config, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise ValueError(f"{name} lacks weights of the host: {sorted(info['missing_keys'])}.")
        _keep_extension_precise(model)
        model._host_checksums = _host_checksums(model)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, *, state_dict: dict | None = None, **kwargs) -> None:
        """Write model, config, code and, where known, the processor.

        With `config.adapter_only`, memory and readout only, and the base by name and revision; else everything.

        Args:
            save_directory: is made if it does not exist.
            state_dict: weights to be written instead of the present ones; filtered for an adapter.
            kwargs: of transformers' `save_pretrained`.

        Raises:
            ValueError: for an adapter whose host was changed since it was loaded, or that has no base.
        """
        if self.config.adapter_only:
            self._check_host_is_unchanged()
            state_dict = {
                key: tensor
                for key, tensor in (self.state_dict() if state_dict is None else state_dict).items()
                if key.split(".")[0] in EXTENSION_NAMES
            }
        config = self.config
        # The saved weights have a name of their own; the live conversations' caches keep the one they were made for.
        self.config = copy.deepcopy(config)
        self.config.memory_config.weights_fingerprint = _fingerprint(self.titans_memory.state_dict())
        try:
            self._save_code(save_directory)
            super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        finally:
            self.config = config
        if self.processor is not None:
            self.processor.save_pretrained(save_directory)

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
        after = _host_checksums(self)
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        if changed:
            raise ValueError(
                f"{len(changed)} weights of the host differ from those of {self.config.base_model_name_or_path}"
                f" ({', '.join(changed[:3])}, ...); an adapter would lose them. {in_full}"
            )


_AUTO_MODELS = ("AutoModelForAudioEmotion", "AutoModelForMultimodalLM", "AutoModel")


def _commit_of(name, hub: dict) -> str | None:
    """The commit of a Hub repo; None for a folder."""
    if os.path.isdir(name):
        return None
    return extract_commit_hash(cached_file(name, "config.json", **hub), hub.get("revision"))


def _processor_of(name, hub: dict, *, is_needed: bool):
    """The host's processor; where it is not needed, None with a warning if it cannot be loaded."""
    try:
        return AutoProcessor.from_pretrained(name, **hub)
    except (OSError, ValueError) as error:
        if is_needed:
            raise
        logger.warning(f"No processor will be saved along: {error}")
        return None


def _adapter_weights(name, kwargs: dict) -> dict[str, Tensor]:
    keywords = {key: kwargs[key] for key in (*_HUB_KEYWORDS, "revision", "subfolder") if key in kwargs}
    return load_file(cached_file(name, SAFE_WEIGHTS_NAME, **keywords))


def _copy_extension(model, weights: dict[str, Tensor], name) -> None:
    own = {key: tensor for key, tensor in model.state_dict().items() if key.split(".")[0] in EXTENSION_NAMES}
    wrong = sorted({*own} ^ {*weights}) or sorted(key for key in own if own[key].shape != weights[key].shape)
    if wrong:
        raise ValueError(f"The adapter {name} does not hold the weights that its config describes: {wrong}.")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(weights[key])


def _keep_extension_precise(model) -> None:
    # transformers creates what a checkpoint lacks in the host's dtype.
    for name in model.extension_names:
        getattr(model, name).float()


def _host_checksums(model) -> dict[str, tuple]:
    """Dtype, shape and a checksum of each of the host's tensors; those not in memory count as unchanged."""
    return {
        key: (str(tensor.dtype), tuple(tensor.shape), None if tensor.device.type == "meta" else _checksum(tensor))
        for key, tensor in model.state_dict().items()
        if key.split(".")[0] not in EXTENSION_NAMES
    }


def _checksum(tensor: Tensor) -> tuple[int, int]:
    """Of the bytes as 64-bit integers, with each row and each column counted by its place; modulo 2^64."""
    matrix = tensor.detach().contiguous()
    matrix = (matrix.flatten(1) if matrix.dim() > 1 else matrix.reshape(1, -1)).view(torch.uint8)
    missing = -matrix.shape[1] % 8
    words = (F.pad(matrix, (0, missing)) if missing else matrix).view(torch.int64)
    sums = (words.sum(axis) for axis in (0, 1))
    return tuple(int((s * torch.arange(1, len(s) + 1, device=s.device)).sum()) for s in sums)


def _fingerprint(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
