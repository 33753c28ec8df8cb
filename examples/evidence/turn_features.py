"""Scripted turns as the hidden states of a frozen host, without audio: features of a turn, token by token.

A token holds the turn's pitch and level, a signature of the voice, and whether the turn is whispered, each with noise.
A fixed random network takes the place of the host up to the block that the memory is attached to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from titans_mal.data.synthetic.suites import SPEAKER_SPREAD, Script, Suite


FEWEST_TOKENS, MOST_TOKENS = 8, 12
SIGNATURE = 8
# Pitch and level, in units of the speakers' spread; a voice's signature; a whisper.
FEATURES = 2 + SIGNATURE + 1
# Standard deviations of a token about its turn, chosen before any training. The mean of ten tokens is then off by
# 0.09 in pitch and level, less than the scatter of turns (0.13 and 0.2), so the bound is within reach.
VOICE_NOISE, SIGNATURE_NOISE, WHISPER_NOISE = 0.3, 0.5, 0.1


@dataclass(frozen=True)
class Turns:
    """All turns of a batch of conversations, which have the same number of them; row = conversation * turns + turn.

    Attributes:
        features: (rows, `MOST_TOKENS`, `FEATURES`), zero where `mask` is False.
        mask: (rows, `MOST_TOKENS`) bool, the tokens that a turn has.
        speakers: (conversations, turns) int.
        emotions: (conversations, turns) int.
        is_scored: (conversations, turns) bool.
    """

    features: Tensor
    mask: Tensor
    speakers: Tensor
    emotions: Tensor
    is_scored: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Conversations, and turns of each."""
        return tuple(self.speakers.shape)

    def in_order(self) -> list[Tensor]:
        """The rows of the first turn of each conversation, of the second, and so on."""
        conversations, turns = self.shape
        return list(torch.arange(conversations * turns).view(conversations, turns).unbind(1))

    def in_order_of_speakers(self) -> list[Tensor]:
        """The same with a stream for each speaker of each conversation, those with the most turns first."""
        streams: dict[tuple[int, int], list[int]] = {}
        for row, speaker in enumerate(self.speakers.flatten().tolist()):
            streams.setdefault((row // self.shape[1], speaker), []).append(row)
        longest_first = sorted(streams.values(), key=len, reverse=True)
        return [
            torch.tensor([rows[turn] for rows in longest_first if turn < len(rows)])
            for turn in range(len(longest_first[0]))
        ]


def draw_scripts(suite: Suite, conversations: int, *, seed: Sequence[int]) -> list[Script]:
    """Conversations of a suite, each from a seed of its own."""
    return [suite.draw(np.random.default_rng((*seed, number))) for number in range(conversations)]


def draw_turns(scripts: Sequence[Script], *, seed: Sequence[int]) -> Turns:
    """Features of conversations that have the same number of turns; `seed` of voices and noise."""
    rng = np.random.default_rng(seed)
    # (conversations, turns, 5)
    names = ("speaker", "emotion", "pitch", "level", "is_whispered")
    given = np.array([[[getattr(turn, name) for name in names] for turn in script.turns] for script in scripts], float)
    speakers, emotions = given[..., 0].astype(int), given[..., 1].astype(int)
    signatures = rng.standard_normal((len(scripts), speakers.max() + 1, SIGNATURE))
    voices = np.take_along_axis(signatures, speakers[..., None], axis=1)
    of_turns = np.concatenate([given[..., 2:4] / SPEAKER_SPREAD, voices, given[..., 4:]], axis=-1)
    scales = np.array([VOICE_NOISE] * 2 + [SIGNATURE_NOISE] * SIGNATURE + [WHISPER_NOISE])
    of_turns = of_turns.reshape(-1, 1, FEATURES)
    features = of_turns + scales * rng.standard_normal((len(of_turns), MOST_TOKENS, FEATURES))
    tokens = rng.integers(FEWEST_TOKENS, MOST_TOKENS + 1, size=(len(of_turns), 1))
    mask = np.arange(MOST_TOKENS) < tokens
    is_scored = [[not turn.is_introduction for turn in script.turns] for script in scripts]
    return Turns(
        torch.from_numpy((features * mask[..., None]).astype(np.float32)),
        torch.from_numpy(mask),
        torch.from_numpy(speakers),
        torch.from_numpy(emotions),
        torch.tensor(is_scored),
    )


class FrozenHost(nn.Module):
    """A fixed random network from the features of a token to a hidden state of the host.

    Args:
        hidden_size: of the host.
        inner_size: units, most of which see a few features mixed.
    """

    def __init__(self, hidden_size: int = 48, inner_size: int = 128):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        self.register_buffer("into", draw(FEATURES, inner_size) / math.sqrt(FEATURES))
        self.register_buffer("shift", draw(inner_size))
        self.register_buffer("out", draw(inner_size, hidden_size) / math.sqrt(inner_size))

    def forward(self, features: Tensor) -> Tensor:
        """(rows, tokens, FEATURES) to (rows, tokens, hidden_size)."""
        return F.gelu(features @ self.into + self.shift) @ self.out
