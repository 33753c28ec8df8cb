"""`generate` of a host with memory: the prompt is written once in every decoding mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .conversation_memory_cache import ConversationMemoryCache
from .host_types import HostModel
from .input_scalars import audio_features


class MemoryGenerationMixin(HostModel):
    """`generate` with a memory, and with several copies of a prompt, such as beams."""

    # Of `AudioEmotionMixin`.
    _begin: Callable[..., Any]

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *args,
        memory_cache: ConversationMemoryCache | None = None,
        conversation_ids: Tensor | Sequence[int] | None = None,
        speaker_ids: Tensor | Sequence[int] | None = None,
        update_memory: bool = True,
        **kwargs,
    ) -> Any:
        """The host's `generate`; the prompt is read and written once in every decoding mode, as one transaction.

        Arguments and errors as `forward`; generated tokens are never written.
        """
        input_ids = None if kwargs.get("inputs_embeds") is not None else kwargs.get("input_ids", inputs)
        transaction = self._begin(memory_cache, input_ids, conversation_ids, speaker_ids, update_memory)
        if transaction is not None and input_ids is not None:
            transaction.prompt_audio = self.audio_mask(input_ids, kwargs)
            kwargs["memory_cache"] = transaction
        with self._generating_in.one_more():
            result = super().generate(inputs, *args, **kwargs)
        if transaction is not None and memory_cache is not None:
            transaction.commit()
        return result

    def _expand_inputs_for_generation(self, expand_size: int = 1, *args, **kwargs):
        transaction = kwargs.get("memory_cache")
        if expand_size == 1:
            return super()._expand_inputs_for_generation(expand_size, *args, **kwargs)
        if transaction is not None:
            transaction.expand(expand_size)
        windows = _take_windows(kwargs, self.audio_mask(kwargs["input_ids"], kwargs).any(dim=1))
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, *args, **kwargs)
        # The rows are copies of one prompt, so its windows are repeated as a block for each copy.
        return input_ids, kwargs | {key: torch.cat([tensor] * expand_size) for key, tensor in windows.items()}

    def _get_candidate_generator(self, *args, **kwargs):
        # An assistant model does not use this model's memory; its proposals are verified with memory.
        kwargs["model_kwargs"] = {k: v for k, v in kwargs["model_kwargs"].items() if k != "memory_cache"}
        return super()._get_candidate_generator(*args, **kwargs)


def _take_windows(kwargs: dict, has_audio: Tensor) -> dict[str, Tensor]:
    """Remove from `generate`'s keywords the tensors with one row per audio window, if a prompt has several windows.

    Args:
        has_audio: (rows,) bool, the prompts that have audio at all.

    Raises:
        ValueError: for several prompts without exactly one window each, since windows cannot be assigned to prompts.
    """
    rows = kwargs["input_ids"].shape[0]
    names = audio_features(kwargs)
    if names and rows > 1 and not bool(has_audio.all()):
        without = (~has_audio).nonzero().flatten().tolist()
        raise ValueError(
            f"Beam search and several return sequences need one audio window per prompt, but prompts {without} have "
            "none: pass the prompts one by one."
        )
    windows = next((kwargs[key].shape[0] for key in names if kwargs[key].shape[0] != rows), rows)
    if windows == rows:
        return {}
    if rows > 1:
        raise ValueError(
            f"Beam search and several return sequences need one audio window per prompt, got {windows} windows for "
            f"{rows} prompts: pass the prompts one by one."
        )
    several = [key for key, value in kwargs.items() if isinstance(value, Tensor) and key != "input_ids"]
    return {key: kwargs.pop(key) for key in several if kwargs[key].shape[:1] == (windows,)}
