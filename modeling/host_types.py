"""What the mixins of this package demand of the classes that they are mixed into; for type checkers alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel


class AudioHost(Protocol):
    """A host with memory, as code that is handed one uses it.

    Attributes:
        config: an `AudioEmotionConfigMixin` and the host's configuration.
        titans_memory: a `TitansMemory`, the child that holds the memory's layers.
        emotion_head: of `emotion_readout="linear"`.
        audio_token_id: the id of the audio placeholder.
        memory_cache_class: `ConversationMemoryCache`, of the code that the model was loaded with.
        device, dtype, training: of the model, as of any other.
    """

    config: Any
    titans_memory: Any
    emotion_head: nn.Linear
    memory_cache_class: Any
    training: bool

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

    def sound_extractor(self, processor: Any) -> Any: ...

    def max_turn_seconds(self, processor: Any) -> float | None: ...

    def min_turn_seconds(self, processor: Any) -> float: ...

    def turn_inputs(self, *args: Any, **kwargs: Any) -> tuple[BatchFeature, list[float]]: ...


class SavedState(Protocol):
    """What saving and loading demand of a cache; see `ConversationMemoryCache`."""

    layers: list[Any]
    turns: Tensor
    tokens: Tensor
    notes: dict
    weights_fingerprint: str | None
    conversation_ids: dict[int, int] | None
    speaker_ids: list[dict[int, int]]

    def __init__(self, config: PreTrainedConfig, batch_size: int = 1): ...

    @property
    def identity(self) -> dict: ...


if TYPE_CHECKING:

    class HostModel(PreTrainedModel):
        """The host's model class; a host's own class comes behind the mixins."""

        config: Any
        titans_memory: Any
        emotion_head: nn.Linear
        _host_parameters: list[str]

        def audio_mask(self, input_ids: Tensor, inputs: Any) -> Tensor: ...

    class HostConfig(PreTrainedConfig):
        """The host's configuration class."""

    SavedStateBase = SavedState
else:
    HostModel = HostConfig = SavedStateBase = object
