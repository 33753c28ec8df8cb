"""Settings for the label of a live turn: of a pool, a call, or a single turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..export import check_labels, choose_label
from ..modeling.turn_rules import check_text
from ..modeling.turn_scoring import ScoredTurn


@dataclass(frozen=True)
class LabelSettings:
    """How labels are chosen from a turn's scores; the memory does not depend on it.

    Attributes:
        labels: the labels to choose among; None = all of the model.
        unknown_below: the label is "unknown" if the most probable label is less probable than this.
        temperature: divides the logits, instead of the model's `emotion_temperature`; None = the model's. Emotion
            transitions keep the model's.
        score: the speakers whose emotion is returned; turns of others have no label and no scores. None = all.

    Raises:
        ValueError: for a temperature that is not above 0, or speakers that are no sequence of names.
    """

    labels: Sequence[str] | None = None
    unknown_below: float = 0.0
    temperature: float | None = None
    score: Sequence[str] | None = None

    def __post_init__(self):
        temperature = self.temperature
        if temperature is not None and (isinstance(temperature, bool | str) or not 0 < temperature < math.inf):
            raise ValueError(f"temperature must be a number above 0, got {temperature!r}.")
        if isinstance(self.score, str):
            raise ValueError(f"score must be a sequence of speakers, got the text {self.score!r:.60}.")
        for speaker in self.score or ():
            check_text(speaker, "A speaker")

    def check(self, known: Sequence[str]) -> None:
        """Raise ValueError for unknown labels, or an `unknown_below` outside [0, 1]."""
        check_labels(known, self.labels, self.unknown_below)

    def choose(self, turn: ScoredTurn, speaker: str | None) -> tuple[str | None, float | None, dict[str, float]]:
        """Label, its probability and all probabilities; (None, None, {}) for a speaker that is not scored."""
        if self.score is not None and speaker not in self.score:
            return None, None, {}
        if self.temperature is not None:
            turn = replace(turn, temperature=self.temperature)
        return choose_label(turn.scores, labels=self.labels, unknown_below=self.unknown_below)
