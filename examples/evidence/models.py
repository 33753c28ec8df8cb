"""The memory and utterance only: one frozen host and one kind of readout, so that only the memory differs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from turn_features import FrozenHost, Turns

from titans_mal.data.synthetic.suites import EMOTIONS
from titans_mal.modeling.configuration_titans_memory import TitansMemoryConfig
from titans_mal.modeling.titans_memory_layer import TitansMemory, TitansMemoryLayer


HIDDEN_SIZE = 48


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """(rows, tokens, width) to (rows, width): the mean of a turn's tokens."""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class UtteranceOnly(nn.Module):
    """Scores each turn by itself; the other models differ in `remember`."""

    def __init__(self):
        super().__init__()
        self.host = FrozenHost(HIDDEN_SIZE)
        self.readout = nn.Sequential(nn.Linear(HIDDEN_SIZE, 128), nn.GELU(), nn.Linear(128, len(EMOTIONS)))

    def forward(self, turns: Turns) -> Tensor:
        """(rows, emotions) logits."""
        hidden = self.host(turns.features)
        return self.readout(pool(hidden + self.remember(hidden, turns), turns.mask))

    def remember(self, hidden: Tensor, turns: Turns) -> Tensor | float:
        """The residual that depends on the history, (rows, tokens, hidden_size); it is added to the hidden states."""
        return 0.0


class WithMemory(UtteranceOnly):
    """Reads and writes a `TitansMemoryLayer`.

    Args:
        layer: its class, or a variant of it.
        write: False leaves every stream with the learned memory that it starts from.
        memory: fields of `TitansMemoryConfig`; scope "speaker" is given the speaker.

    Attributes:
        is_reset: each turn begins with the learned memory, as if it were the first.
    """

    def __init__(self, *, layer: type[TitansMemoryLayer] = TitansMemoryLayer, write: bool = True, **memory):
        super().__init__()
        self.write = write
        self.is_reset = False
        self.config = TitansMemoryConfig(**memory)
        self.layer = layer(self.config, HIDDEN_SIZE)
        # What a model starts from.
        fresh = TitansMemory(self.config, HIDDEN_SIZE).layers[0]
        self.layer.load_state_dict(fresh.state_dict(), strict=False)

    def remember(self, hidden: Tensor, turns: Turns) -> Tensor:
        order = turns.in_order_of_speakers() if self.config.scope == "speaker" else turns.in_order()
        if self.is_reset:
            order = [torch.arange(len(hidden))]
        rows, state = torch.cat(order), self.layer.initial_state(len(order[0]))
        # A turn's tokens are its first ones.
        lengths, sizes = turns.mask.sum(-1)[rows], [len(turn) for turn in order]
        output = self.layer(hidden[rows], state, lengths=lengths, batch_sizes=sizes, write=self.write)
        return output.residual[torch.argsort(rows)]
