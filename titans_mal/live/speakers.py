"""Speakers of mono audio by voice: each turn is assigned to the speaker with the most similar voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .turns import RATE


# Shorter turns say too little of a voice to change what is known of one.
_LEAST_SECONDS = 1.0
# A guess: it was fitted to no voices.
DEFAULT_THRESHOLD = 0.86


class SpeakerAssigner:
    """Names the speakers of a conversation "speaker 1", "speaker 2", ... in the order in which they first talk.

        assigner = SpeakerAssigner(VoiceEmbedder("microsoft/wavlm-base-plus-sv"))
        assigner.assign(waveform)

    A turn is assigned to the speaker with the most similar mean embedding (cosine similarity), or to a new speaker if
    no similarity reaches the threshold. A turn shorter than a second is always assigned to the most similar speaker,
    if there is any.

    Args:
        embed: returns the embedding (dimensions,) of a turn's waveform (samples,) at 16 kHz, as `VoiceEmbedder` does.
        threshold: the minimal similarity, in (-1, 1), of two turns by the same speaker. It depends on the embeddings
            and the recordings. The default is not calibrated: fit it with `fit_threshold`.
        max_speakers: maximal number of speakers; None: no limit.

    Raises:
        ValueError: for a threshold or a bound out of its range.
    """

    def __init__(
        self,
        embed: Callable[[np.ndarray], np.ndarray],
        *,
        threshold: float = DEFAULT_THRESHOLD,
        max_speakers: int | None = None,
    ):
        if not -1 < threshold < 1:
            raise ValueError(f"threshold must be in (-1, 1), got {threshold!r}.")
        if max_speakers is not None and max_speakers < 1:
            raise ValueError(f"max_speakers must be at least 1, or None, got {max_speakers!r}.")
        self._embed, self._threshold, self._most = embed, threshold, max_speakers
        # The sum of the normalised embeddings of each speaker's turns.
        self._voices: list[np.ndarray] = []

    def assign(self, waveform: np.ndarray) -> str:
        """The name of who talks in the next turn, (samples,) at 16 kHz."""
        voice = np.asarray(self._embed(waveform), np.float64)
        voice = voice / max(float(np.linalg.norm(voice)), 1e-12)
        similar = [float(voice @ known) / max(float(np.linalg.norm(known)), 1e-12) for known in self._voices]
        best = max(range(len(similar)), key=similar.__getitem__, default=None)
        is_short = len(waveform) < _LEAST_SECONDS * RATE
        has_room = self._most is None or len(self._voices) < self._most
        if best is None or (similar[best] < self._threshold and has_room and not is_short):
            self._voices.append(voice)
            return f"speaker {len(self._voices)}"
        if not is_short:
            self._voices[best] = self._voices[best] + voice
        return f"speaker {best + 1}"


def fit_threshold(embeddings: Sequence[np.ndarray], speakers: Sequence[str]) -> tuple[float, float]:
    """The threshold with equal error rates: as many pairs of one speaker are rejected as pairs of two are accepted.

    Args:
        embeddings: (dimensions,) of each turn, of a second or more.
        speakers: the speaker of each turn; the same name means the same person.

    Returns:
        The threshold and its equal error rate, the mean of both error rates.

    Raises:
        ValueError: unless there are pairs of turns of one speaker, and of two.
    """
    voices = np.asarray(embeddings, np.float64)
    voices = voices / np.linalg.norm(voices, axis=1, keepdims=True).clip(1e-12)
    first, second = np.triu_indices(len(voices), 1)
    similar, names = np.einsum("ij,ij->i", voices[first], voices[second]), np.asarray(speakers)
    is_same = names[first] == names[second]
    if is_same.all() or not is_same.any():
        raise ValueError("Fitting a threshold needs at least two speakers, and at least two turns of one of them.")
    order = np.argsort(similar)
    similar, is_same = similar[order], is_same[order]
    # With the threshold between each pair and the one before it.
    missed = np.concatenate([[0], np.cumsum(is_same)]) / is_same.sum()
    accepted = 1 - np.concatenate([[0], np.cumsum(~is_same)]) / (~is_same).sum()
    best = int(np.abs(missed - accepted).argmin())
    bounds = np.concatenate([similar[:1], similar, similar[-1:]])
    return float((bounds[best] + bounds[best + 1]) / 2), float((missed[best] + accepted[best]) / 2)


class VoiceEmbedder:
    """Embeddings of voices by a model of transformers for speaker verification (`AutoModelForAudioXVector`).

    Args:
        name: a folder or a Hub repository, such as "microsoft/wavlm-base-plus-sv".
        revision: revision of the repository.

    Raises:
        OSError, ValueError: if there is no such model.
    """

    def __init__(self, name: str, *, revision: str | None = None):
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        self._extractor: Any = AutoFeatureExtractor.from_pretrained(name, revision=revision)
        self._model: Any = AutoModelForAudioXVector.from_pretrained(name, revision=revision).eval()

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """(dimensions,) of a waveform (samples,) at 16 kHz; one too short for the model is repeated.

        Raises:
            ValueError: for a waveform without samples.
        """
        if not len(waveform):
            raise ValueError("The waveform of a turn is empty: it must have at least one sample.")
        while len(waveform) < _LEAST_SECONDS * RATE:
            waveform = np.concatenate([waveform, waveform])
        inputs = self._extractor(waveform, sampling_rate=RATE, return_tensors="pt")
        return self._model(**inputs).embeddings[0].float().numpy()
