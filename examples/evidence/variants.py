"""Variants of the memory layer that were tried; the README has their results."""

from __future__ import annotations

import torch
from models import pool
from torch import Tensor, nn
from torch.nn import functional as F

from titans_mal.modeling.configuration_titans_memory import TitansMemoryConfig
from titans_mal.modeling.memory_chunks import MemoryTokens
from titans_mal.modeling.memory_injection import CALL_KEYWORD
from titans_mal.modeling.titans_memory_layer import TitansMemoryLayer


def written_or_all(normed: Tensor, written: Tensor | None) -> Tensor:
    """(rows, tokens) bool, which tokens are written; None means all of them."""
    return torch.ones(normed.shape[:2], dtype=torch.bool, device=normed.device) if written is None else written


class PooledWrite(TitansMemoryLayer):
    """Writes the mean key and value of a turn once, with the mean of its gates, instead of every token."""

    def _project(self, normed: Tensor, written: Tensor | None) -> MemoryTokens:
        tokens, written = super()._project(normed, written), written_or_all(normed, written)
        first = torch.zeros_like(written)
        first[:, 0] = True

        def mean(tensor):
            """(rows, heads, tokens, ...), every token of it the mean of the turn's."""
            pooled = pool(tensor.transpose(1, 2).flatten(2), written)
            pooled = pooled.unflatten(1, tensor.transpose(1, 2).shape[2:])[:, :, None].expand_as(tensor)
            # `MemoryTokens` requires zeros where nothing is written.
            return pooled * first[:, None].reshape(len(first), 1, -1, *[1] * (tensor.dim() - 3))

        means = {name: mean(getattr(tokens, name)) for name in ("keys", "values", "forget", "decay", "step")}
        return tokens._replace(**means | {"keys": F.normalize(means["keys"], dim=-1)}, written=first)


class PlainValues(TitansMemoryLayer):
    """Projected values without the norm."""

    def _project(self, normed: Tensor, written: Tensor | None) -> MemoryTokens:
        values = self.value_proj(normed).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)
        return super()._project(normed, written)._replace(values=values)


class ActivatedKeys(TitansMemoryLayer):
    """SiLU on queries and keys before their norm (arXiv 2501.00663, section 4.4)."""

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__(config, hidden_size)
        for projection in (self.query_proj, self.key_proj):
            projection.register_forward_hook(lambda module, args, projected: F.silu(projected))


class InputKeys(TitansMemoryLayer):
    """Keys, values and gates of a write from the input of the block, queries from its output."""

    def watch(self, block: nn.Module) -> None:
        """Keep the input of a decoder block at the audio tokens, before each of its calls."""

        def keep(module, args, kwargs):
            call = kwargs[CALL_KEYWORD]
            if call.positions is not None:
                self.received = call.audio_of(args[0])

        block.register_forward_pre_hook(keep, with_kwargs=True)

    def _project(self, normed: Tensor, written: Tensor | None) -> MemoryTokens:
        received = self.received.masked_fill(~written_or_all(normed, written)[..., None], 0)
        of_input = super()._project(self.input_norm(received), written)
        return of_input._replace(queries=super()._project(normed, written).queries)


class CausalConvolution(nn.Conv1d):
    """A depthwise convolution over a turn's tokens and those before, which starts as the identity."""

    def __init__(self, width: int, size: int = 4):
        super().__init__(width, width, size, groups=width, padding=size - 1, bias=False)
        nn.init.zeros_(self.weight)
        nn.init.ones_(self.weight[:, :, -1])

    def forward(self, states: Tensor) -> Tensor:
        """(rows, tokens, width)."""
        return super().forward(states.mT)[..., : states.shape[1]].mT


class Convolved(TitansMemoryLayer):
    """A short depthwise convolution after the projections of keys and values."""

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__(config, hidden_size)
        width = config.num_heads * config.head_dim
        self.key_convolution, self.value_convolution = CausalConvolution(width), CausalConvolution(width)
        self.key_proj.register_forward_hook(lambda module, args, keys: self.key_convolution(keys))
        self.value_proj.register_forward_hook(lambda module, args, values: self.value_convolution(values))

    def _project(self, normed: Tensor, written: Tensor | None) -> MemoryTokens:
        tokens = super()._project(normed, written)
        # The convolution reaches beyond a turn's end.
        present = written_or_all(normed, written)[:, None, :, None]
        return tokens._replace(keys=tokens.keys * present, values=tokens.values * present)
