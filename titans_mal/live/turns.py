"""A turn of a live conversation: its scores, and its entry in the history."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from ..modeling.configuration_titans_mal import read_labels
from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.conversation_store import state_key
from ..modeling.turn_rules import check_text, check_times, pieces_of_long_turn, warn_of_cut_turns
from ..modeling.turn_scoring import ScoredTurn, TurnScorer
from .label_settings import LabelSettings


# Sampling rate of turns, in Hz.
RATE = 16_000
_NOTE = "turns"
_RETRIES, _MOST_RETRIES = "retry_keys", 32
# The number of a turn, and of its piece, before the hashed key of a request that has several (`key_of_part`).
_PART = re.compile(r"\d+(\.\d+)?:(?=[0-9a-f]{32}$)")


@dataclass(frozen=True)
class TurnEmotion:
    """The emotion of a turn.

    Attributes:
        turn_index: number of the turn, from 0.
        speaker: as given.
        start, end: seconds of the conversation.
        label: the most probable one; "unknown" if that is less probable than `unknown_below`; None for a model without
            labels, and for a speaker that is not scored.
        score: the probability of the most probable label; None likewise.
        scores: probabilities of all labels, which sum to 1. Empty likewise.
        surprise: mean over the memory layers.
        latency: seconds from the call to the answer.
        processed_seconds: of the turn; less than its length if it is longer than the host's window. None in states of
            earlier versions.
        history_lost: earlier turns of the conversation were lost with a killed server.
        values: predictions for the model's `emotion_dimensions`.
    """

    turn_index: int
    speaker: str | None
    start: float
    end: float
    label: str | None
    score: float | None
    scores: dict[str, float]
    surprise: float
    latency: float
    processed_seconds: float | None = None
    history_lost: bool = False
    values: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        # The history may come from an untrusted file.
        if not isinstance(self.scores, dict) or not isinstance(self.values, dict):
            raise TypeError("a turn's scores or values are not a table")
        numbers = [self.turn_index, self.start, self.end, self.surprise, self.latency, *self.values.values()]
        numbers += self.scores.values()
        numbers += [] if self.score is None else [self.score]
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("a turn's numbers are invalid")
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a turn's numbers are not finite")


class LiveScorer:
    """Scores the turns of live conversations, and chooses their labels.

    Args:
        model, processor: as for `ConversationAnalyzer`.
        settings: settings for turns without their own.

    Attributes:
        labels, dimensions: what the model predicts.

    Raises:
        ValueError: as `check`.
    """

    def __init__(self, model, processor, settings: LabelSettings):
        self.labels, self.dimensions = read_labels(model.config), list(model.config.emotion_dimensions)
        self.check(settings)
        self._settings = settings
        self._has_warned = False
        self.model = model.eval()
        self._scorer = TurnScorer(model, processor)
        self.sampling_rate = self._scorer.sampling_rate
        self.load = self._scorer.load

    @property
    def min_seconds(self) -> float:
        """The shortest turn that the model processes, in seconds."""
        return self.model.min_turn_seconds(self._scorer.processor)

    def pieces(self, waveform: np.ndarray) -> list[tuple[int, int]]:
        """The pieces of a long turn (samples,) at the scorer's rate, as `pieces_of_long_turn`."""
        window = self.model.max_turn_seconds(self._scorer.processor)
        return pieces_of_long_turn(waveform, self.sampling_rate, window)

    def check(self, settings: LabelSettings) -> None:
        """Raise ValueError for settings that do not fit the model."""
        settings.check(self.labels)

    @torch.inference_mode()
    def score(
        self,
        waveforms: Sequence[np.ndarray],
        speakers: Sequence[str | None],
        caches: Sequence[ConversationMemoryCache],
    ) -> list[ScoredTurn]:
        """As `TurnScorer.score`; warns of the first turn that is cut to the host's window."""
        turns = self._scorer.score(waveforms, speakers, caches)
        lengths = [len(waveform) / self.sampling_rate for waveform in waveforms]
        cut = [length for turn, length in zip(turns, lengths) if turn.processed_seconds < length]
        if cut and not self._has_warned:
            self._has_warned = True
            window = self.model.max_turn_seconds(self._scorer.processor)
            warn_of_cut_turns([("A turn", cut[0])], window)
        return turns

    def turn(
        self,
        scored: ScoredTurn,
        *,
        turn_index: int,
        speaker: str | None,
        start: float,
        seconds: float,
        latency: float,
        settings: LabelSettings | None = None,
    ) -> TurnEmotion:
        """The `TurnEmotion` of a scored turn."""
        label, score, scores = (settings or self._settings).choose(scored, speaker)
        return TurnEmotion(
            turn_index,
            speaker,
            start,
            start + seconds,
            label,
            score,
            scores,
            scored.surprise or 0.0,
            latency,
            scored.processed_seconds,
            values=scored.values,
        )


def history_of(cache: ConversationMemoryCache) -> list[TurnEmotion]:
    """The turns that `remember` stored in a cache.

    Raises:
        ValueError: if they are unreadable.
    """
    try:
        return [_turn(turn) for turn in cache.notes.get(_NOTE, [])]
    except TypeError as error:
        raise ValueError(f"The history of a conversation cannot be read: {error}") from error


def _turn(noted: dict) -> TurnEmotion:
    try:
        return TurnEmotion(**noted)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The history of a conversation cannot be read: {error}") from error


def remember(cache: ConversationMemoryCache, turn: TurnEmotion, retry_key: str | None = None) -> None:
    """Add a turn to the history in its cache, with the key by which a client may repeat the request.

    Keys of the last 32 requests are kept; all turns of a request have its key, behind their number (`key_of_part`).
    """
    cache.notes[_NOTE] = [*cache.notes.get(_NOTE, []), asdict(turn)]
    if retry_key is not None:
        keys = [*cache.notes.get(_RETRIES, []), [retry_key, turn.turn_index]]
        requests = list(dict.fromkeys(_PART.sub("", key, count=1) for key, _ in reversed(keys)))[:_MOST_RETRIES]
        cache.notes[_RETRIES] = [entry for entry in keys if _PART.sub("", entry[0], count=1) in requests]


def key_of_part(retry_key: str | None, part: str | int) -> str | None:
    """The key of one of several turns of a request, or of one of its pieces as "turn.piece"."""
    # A hash, so that it is no longer than a key may be.
    return None if retry_key is None else f"{part}:{state_key(retry_key)}"


def answered_before(cache: ConversationMemoryCache, retry_key: str | None) -> TurnEmotion | None:
    """The turn that was already written with a key; None if there is none."""
    if retry_key is None:
        return None
    places = [place for key, place in cache.notes.get(_RETRIES, []) if key == retry_key]
    return next((turn for turn in history_of(cache) if places and turn.turn_index == places[-1]), None)


def check_speaker(speaker: str | None) -> None:
    """Check the name of a speaker.

    Raises:
        ValueError: unless it is None or a valid name (see `check_text`).
    """
    if speaker is not None:
        check_text(speaker, "A speaker")


def start_after(cache: ConversationMemoryCache, start: float | None, gap: float = 0.0) -> float:
    """The start of the next turn: as given, or `gap` seconds after the end of the previous turn.

    Raises:
        ValueError: as `check_times`.
    """
    if start is None:
        turns = cache.notes.get(_NOTE)
        return gap + (_turn(turns[-1]).end if turns else 0.0)
    checked, _ = check_times(start)
    return float(checked or 0.0)
