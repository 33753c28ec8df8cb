"""The utterances of a corpus with their copies, and the scripts of dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


# Share of the emotions of a real sequence that are drawn at random in training, so that rare ones are trained on too.
REPLACED = 0.7


@dataclass(frozen=True)
class Corpus:
    """Utterances as the study needs them.

    Attributes:
        features: (utterances, features) of the encoder.
        speakers, emotions: (utterances,) int. Another voice of the same person is another speaker.
        people: (utterances,) int, the real person who speaks: nobody is both trained on and tested.
        channels: (utterances,) int, microphone and room; a dialogue has one.
        originals: number of utterances that are no copies; they come first.
    """

    features: np.ndarray
    speakers: np.ndarray
    emotions: np.ndarray
    people: np.ndarray
    channels: np.ndarray
    originals: int

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        speakers: np.ndarray,
        emotions: np.ndarray,
        *,
        voices: Sequence[np.ndarray] = (),
        channels: Sequence[np.ndarray] = (),
    ) -> Corpus:
        """A corpus with copies of itself.

        Args:
            features, speakers, emotions: of the utterances.
            voices: features of copies in other voices.
            channels: features of copies through other channels.
        """
        parts = [features, *voices, *channels]
        count = int(speakers.max()) + 1
        voice = [*range(len(voices) + 1), *[0] * len(channels)]
        channel = [*[0] * (len(voices) + 1), *range(1, len(channels) + 1)]
        return cls(
            np.concatenate(parts),
            np.concatenate([speakers + count * number for number in voice]),
            np.tile(emotions, len(parts)),
            np.tile(speakers, len(parts)),
            np.repeat(channel, len(speakers)),
            len(speakers),
        )


@dataclass(frozen=True)
class Scripts:
    """The emotion sequences of composed dialogues; None: random emotions.

    Attributes:
        train, test: of real dialogues, (speaker within it, emotion) a turn.
    """

    train: Sequence[Sequence[tuple[int, int]]] | None = None
    test: Sequence[Sequence[tuple[int, int]]] | None = None

    def training(self, labels: int, *, seed: Sequence[int]) -> list[list[tuple[int, int]]] | None:
        """Those for training, some of whose emotions are replaced at random."""
        if self.train is None:
            return None
        rng = np.random.default_rng(seed)
        draw = lambda emotion: int(rng.integers(labels)) if rng.random() < REPLACED else emotion  # noqa: E731
        return [[(speaker, draw(emotion)) for speaker, emotion in script] for script in self.train]

    def transitions(self, labels: int) -> Tensor:
        """(labels, labels), how often the column follows the row, from half an occurrence on."""
        counts = np.full((labels, labels), 0.5)
        for script in self.train or ():
            for (_, before), (_, after) in pairwise(script):
                counts[before, after] += 1
        return torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()
