"""How the label of a live turn is chosen: of a pool, of a call, or of one turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..export import check_labels, choose_label
from ..modeling.turn_rules import check_text
from ..modeling.turn_scoring import ScoredTurn


@dataclass(frozen=True)
class LabelSettings:
    """What is answered of a turn's scores; what is written to the memory does not depend on it.

    Attributes:
        labels: to choose among; None = all of the model.
        unknown_below: a turn whose most probable label is less probable is "unknown".
        temperature: that divides the logits, in place of the model's `emotion_temperature`; None = that one.
        score: the speakers whose emotion is answered; turns of others have no label and no scores. None = everybody.

    Raises:
        ValueError: for a temperature that is not above 0, or a speaker that is no name.
    """

    labels: Sequence[str] | None = None
    unknown_below: float = 0.0
    temperature: float | None = None
    score: Sequence[str] | None = None

    def __post_init__(self):
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be a number above 0, got {self.temperature!r}.")
        for speaker in self.score or ():
            check_text(speaker, "A speaker")

    def check(self, known: Sequence[str]) -> None:
        """Raise a ValueError for labels that are not known, or an `unknown_below` outside of [0, 1]."""
        check_labels(known, self.labels, self.unknown_below)

    def choose(self, turn: ScoredTurn, speaker: str | None) -> tuple[str | None, float | None, dict[str, float]]:
        """Label, its probability and all probabilities of a turn; (None, None, {}) of a speaker who is not scored."""
        if self.score is not None and speaker not in self.score:
            return None, None, {}
        if self.temperature is not None:
            turn = replace(turn, temperature=self.temperature)
        return choose_label(turn.scores, labels=self.labels, unknown_below=self.unknown_below)
