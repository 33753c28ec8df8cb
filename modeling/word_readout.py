"""Reading whole label words from a host: the logits behind the first tokens of an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .audio_emotion_output import HOST_CACHE
from .host_types import HostModel
from .label_words import copy_of_cache
from .memory_injection import CALL_KEYWORD, MemoryCall


# Inputs of a host's `forward` that belong to one prompt, and not to longer ones.
_OF_ONE_PROMPT = ("labels", "logits_to_keep", "num_items_in_batch", "cache_position", HOST_CACHE, "past_key_values")


class WordReadoutMixin(HostModel):
    """How a host goes on behind the tokens that an answer begins with; the memory is read and not written."""

    # Of `AudioEmotionMixin`.
    _memory_call: Callable[..., Any]

    def answer_steps(self, output, call: MemoryCall, inputs: dict) -> Callable[[Sequence[int]], Tensor]:
        """From tokens that the answers begin with to the host's logits behind each of them.

        The prompt's keys and values are used if they can grow and the rows end together. Otherwise (static cache,
        gradient checkpointing, padding on the right) each beginning takes a pass over prompt and answer.

        Args:
            output: output of the host for the prompts.
            call: the memory's.
            inputs: inputs of the host.

        Raises:
            ValueError: if the prompts began in an earlier call and their cache cannot grow.
        """
        past = output.get(HOST_CACHE)
        is_long = past is not None and int(past.get_seq_length()) >= call.sequence_length
        ends_together = call.seen.get("earliest", call.sequence_length - 1) == call.sequence_length - 1
        if is_long and not past.is_compileable and ends_together:
            return self._further_steps(past, inputs)
        if past is not None and int(past.get_seq_length()) > call.sequence_length:
            raise ValueError(
                "A static cache cannot be used to score whole label words after a prompt that spans several "
                "calls: use a dynamic cache, or label_words whose first tokens differ."
            )
        return self._longer_prompts(call, inputs)

    def _further_steps(self, past, inputs: dict) -> Callable[[Sequence[int]], Tensor]:
        ids, mask = inputs["input_ids"], padding_mask(inputs)
        host = super().forward

        def step(tokens: Sequence[int]) -> Tensor:
            answer = torch.tensor([tokens], device=ids.device).expand(len(ids), -1)
            further = {HOST_CACHE: copy_of_cache(past), "use_cache": True, "return_dict": True}
            if mask is not None:
                further["attention_mask"] = torch.cat([mask, mask.new_ones(answer.shape)], dim=1)
                further["position_ids"] = self._answer_positions(further["attention_mask"], answer.shape[1])
            return host(input_ids=answer, **further).logits

        return step

    def _longer_prompts(self, call: MemoryCall, inputs: dict) -> Callable[[Sequence[int]], Tensor]:
        """Steps that process the prompts again, with the answer behind the last position of each."""
        ids, mask = inputs["input_ids"], padding_mask(inputs)
        if inputs.get("position_ids") is not None:
            raise ValueError(
                "position_ids are not supported when whole label words are scored without a dynamic cache."
            )
        mask = torch.ones_like(ids) if mask is None else mask
        last = call.last_positions.to(ids.device)  # type: ignore[union-attr]
        host = super().forward
        same = {name: value for name, value in inputs.items() if name not in _OF_ONE_PROMPT}

        def step(tokens: Sequence[int]) -> Tensor:
            positions = last[:, None] + torch.arange(1, len(tokens) + 1, device=ids.device)
            answer = torch.tensor(tokens, device=ids.device).expand_as(positions)
            longer = same | {
                "input_ids": nn.functional.pad(ids, (0, len(tokens))).scatter(1, positions, answer.to(ids.dtype)),
                "attention_mask": nn.functional.pad(mask, (0, len(tokens))).scatter(1, positions, 1),
                "use_cache": False,
            }
            again = self._memory_call(None if call.transaction is None else call.transaction.twin(), longer)
            logits = host(**longer, **{CALL_KEYWORD: again}, return_dict=True).logits
            rows = torch.arange(len(ids), device=logits.device)[:, None]
            return logits[rows, positions.to(logits.device)]

        return step

    def _answer_positions(self, attention_mask: Tensor, count: int) -> Tensor | None:
        """(axes, rows, count), the last positions, for hosts whose positions differ from those of text; else None."""
        holders = (self, getattr(self, "model", None))
        ahead = next(
            filter(lambda lead: lead is not None, (getattr(one, "rope_deltas", None) for one in holders)), None
        )
        if ahead is None:
            return None
        positions = (attention_mask.long().cumsum(-1) - 1)[:, -count:] + ahead.to(attention_mask.device)
        return positions.expand(3, -1, -1)


def padding_mask(inputs: dict) -> Tensor | None:
    """The attention mask if it marks padding, (rows, positions); a static cache's masks have another shape."""
    mask = inputs.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
