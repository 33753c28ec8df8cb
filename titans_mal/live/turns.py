"""One turn of a live conversation: what is heard in it, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real

import numpy as np
import torch

from ..export import check_labels, choose_label
from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.pipeline_audio_emotion import speaker_number


# In Hz, in which turns are measured and handed on.
RATE = 16_000
_NOTE = "turns"


@dataclass(frozen=True)
class TurnEmotion:
    """What was heard in a turn.

    Attributes:
        turn_index: from 0 on.
        speaker: as it was given.
        start, end: seconds of the conversation.
        label: the most probable one; "unknown" where that is less probable than `unknown_below`.
        score: the probability of the most probable label.
        scores: of every label; they add up to 1.
        surprise: of the memory, mean over its layers.
        latency: seconds from the call to the answer.
    """

    turn_index: int
    speaker: str | None
    start: float
    end: float
    label: str
    score: float
    scores: dict[str, float]
    surprise: float
    latency: float


@dataclass(frozen=True)
class Heard:
    """What the model made of a turn: the probability of each label, and the memory's surprise."""

    scores: dict[str, float]
    surprise: float


class TurnListener:
    """Hears turns with a model and its processor, and says which of some labels they have.

    Arguments and errors as `ConversationAnalyzer`.
    """

    def __init__(self, model, processor, *, labels: Sequence[str] | None = None, unknown_below: float = 0.0):
        self._labels = check_labels(model.config.labels, labels, unknown_below)
        self._unknown_below = unknown_below
        self.model, self.processor = model.eval(), processor

    @torch.inference_mode()
    def hear(
        self, waveforms: Sequence[np.ndarray], speakers: Sequence[str | None], cache: ConversationMemoryCache
    ) -> list[Heard]:
        """Hear a turn of each row of the cache, all in one batch.

        Args:
            waveforms: (samples,) each, at `RATE`.
            speakers: who talks; needed where the memory is by speaker.

        Raises:
            ValueError: for sound that cannot be used; the cache is then as it was.
        """
        inputs = self.model.prepare_turn(self.processor, [(waveform, RATE) for waveform in waveforms])
        named = {"speaker_ids": [speaker_number(name) for name in speakers]} if None not in speakers else {}
        output = self.model(**inputs, memory_cache=cache, logits_to_keep=1, **named)
        surprises = output.memory_surprise.mean(-1).tolist()
        probabilities = torch.softmax(output.emotion_logits.float(), dim=-1).tolist()
        labels = self.model.config.labels
        return [Heard(dict(zip(labels, row)), surprise) for row, surprise in zip(probabilities, surprises)]

    def turn(
        self, heard: Heard, *, turn_index: int, speaker: str | None, start: float, seconds: float, latency: float
    ) -> TurnEmotion:
        """The `TurnEmotion` of what was heard."""
        label, score, scores = choose_label(heard.scores, labels=self._labels, unknown_below=self._unknown_below)
        end = start + seconds
        return TurnEmotion(turn_index, speaker, start, end, label, score, scores, heard.surprise, latency)


def history_of(cache: ConversationMemoryCache) -> list[TurnEmotion]:
    """The turns that `remember` noted in a cache.

    Raises:
        ValueError: if they cannot be read.
    """
    try:
        return [TurnEmotion(**turn) for turn in cache.notes.get(_NOTE, [])]
    except TypeError as error:
        raise ValueError(f"The history of a conversation cannot be read: {error}") from error


def remember(cache: ConversationMemoryCache, turn: TurnEmotion) -> None:
    """Note a turn in the cache that it was written to."""
    cache.notes[_NOTE] = [*cache.notes.get(_NOTE, []), asdict(turn)]


def check_speaker(speaker: str | None) -> None:
    """Refuse what is no name of a speaker.

    Raises:
        ValueError: for what is neither text nor None.
    """
    if not isinstance(speaker, str | None):
        raise ValueError(f"A speaker is named by text, got {speaker!r}.")


def start_after(cache: ConversationMemoryCache, start: float | None) -> float:
    """When a turn starts that comes next: as the one before it ends, unless it is said.

    Raises:
        ValueError: for a start before that of the turn before, or none that is a number.
    """
    turns = cache.notes.get(_NOTE)
    if start is not None and (isinstance(start, bool) or not isinstance(start, Real)):
        raise ValueError(f"A turn starts at a number of seconds, got {start!r}.")
    if start is None:
        return turns[-1]["end"] if turns else 0.0
    earliest = turns[-1]["start"] if turns else 0.0
    if not earliest <= start < float("inf"):
        raise ValueError(f"A turn must start at {earliest} s, where the one before it starts, or later, got {start}.")
    return float(start)
