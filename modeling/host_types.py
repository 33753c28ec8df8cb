"""The interfaces that the mixins of this package expect; for type checkers only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel


class AudioHost(Protocol):
    """A host with memory, as used by code that receives one.

    Attributes:
        config: an `AudioEmotionConfigMixin` and the host's configuration.
        titans_memory: a `TitansMemory`, the child that holds the memory's layers.
        emotion_head: the head for `emotion_readout="linear"` and "audio".
        audio_token_id: the id of the audio placeholder.
        memory_cache_class: the `ConversationMemoryCache` of the code that the model was loaded with.
        device, dtype, training: as of any model.
    """

    config: Any
    titans_memory: Any
    emotion_head: nn.Linear
    memory_cache_class: Any
    training: bool
    tower_mixes_padding: ClassVar[bool]

    @property
    def audio_token_id(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def is_memory_disabled(self) -> bool: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def generate(self, *args: Any, **kwargs: Any) -> Any: ...

    def audio_mask(self, input_ids: Tensor, inputs: Any) -> Tensor: ...

    def disable_memory(self) -> AbstractContextManager[None]: ...

    def audio_extractor(self, processor: Any) -> Any: ...

    def max_turn_seconds(self, processor: Any) -> float | None: ...

    def min_turn_seconds(self, processor: Any) -> float: ...

    def turn_inputs(self, *args: Any, **kwargs: Any) -> tuple[BatchFeature, list[float]]: ...


class SavedState(Protocol):
    """The attributes of a cache that saving and loading use; see `ConversationMemoryCache`."""

    layers: list[Any]
    turns: Tensor
    tokens: Tensor
    beliefs: Tensor | None
    notes: dict
    weights_fingerprint: str | None
    conversation_ids: dict[int, int] | None
    speaker_ids: list[dict[int, int]]

    def __init__(self, config: PreTrainedConfig, batch_size: int = 1): ...

    @property
    def identity(self) -> dict: ...


if TYPE_CHECKING:
    from .configuration_titans_mal import AudioEmotionConfigMixin
    from .titans_memory_layer import TitansMemory

    class HostModel(PreTrainedModel):
        """The host's model class, which follows the mixins in a host's bases."""

        config: Any
        config_class: type[AudioEmotionConfigMixin]
        processor: Any
        titans_memory: TitansMemory
        emotion_head: nn.Linear
        emotion_values_head: nn.Linear
        _host_parameters: list[str]
        _generating_in: Any

        @property
        def extension_names(self) -> tuple[str, ...]: ...

        @classmethod
        def label_tokens_of(cls, config: Any, processor: Any) -> list[int] | list[list[int]]: ...

        def audio_mask(self, input_ids: Tensor, inputs: Any) -> Tensor: ...

        def generate(self, *args: Any, **kwargs: Any) -> Any: ...

        def _expand_inputs_for_generation(
            self, expand_size: int = 1, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, dict[str, Any]]: ...

    class HostConfig(PreTrainedConfig):
        """The host's configuration class."""

        id2label: dict[int, str] | None

    SavedStateBase = SavedState
else:
    HostModel = HostConfig = SavedStateBase = object
