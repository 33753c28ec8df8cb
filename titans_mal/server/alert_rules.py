"""Rules for alerts: conditions on the turns of a conversation."""

from __future__ import annotations

import math
import sys
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..live.summary import rolling_mean
from ..live.turns import TurnEmotion, check_speaker


@dataclass(frozen=True, kw_only=True)
class AlertRule(ABC):
    """Fields shared by all rules.

    Attributes:
        name: name of the rule, which is part of the alert.
        speaker: only turns of this speaker count. None: all turns count.
        cool_down: seconds after an alert in which the rule sends no other for the same conversation.

    Raises:
        ValueError: for a value of another type, or out of range.
    """

    name: str
    speaker: str | None = None
    cool_down: float = 300.0

    def __post_init__(self):
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"A rule must have a name, got {self.name!r}.")
        check_speaker(self.speaker)
        _check_above(0, self, "cool_down")

    def check_model(self, labels: Collection[str], dimensions: Collection[str]) -> None:
        """Check that a model predicts what the rule needs.

        Args:
            labels: the labels of the model.
            dimensions: its emotion dimensions.

        Raises:
            ValueError: naming what the model does not predict.
        """
        for kind, needed, known in zip(("label", "dimension"), self._needs(), (labels, dimensions)):
            missing = [repr(name) for name in needed if name not in known]
            if missing:
                raise ValueError(
                    f"The alert rule {self.name!r} needs the {kind} {', '.join(missing)}, but the model has "
                    f"{', '.join(map(repr, known)) or 'none'}."
                )

    def _needs(self) -> tuple[Collection[str], Collection[str]]:
        """The labels and the dimensions that the rule needs."""
        return (), ()

    def is_triggered_by(self, turns: Sequence[TurnEmotion]) -> bool:
        """Whether the last turn of a conversation triggers the rule."""
        if not turns or not self._counts(turns[-1]):
            return False
        return self._matches([turn for turn in turns if self._counts(turn)])

    def _counts(self, turn: TurnEmotion) -> bool:
        return self.speaker is None or turn.speaker == self.speaker

    @abstractmethod
    def _matches(self, turns: list[TurnEmotion]) -> bool:
        """Whether these turns, the last of which is new, trigger the rule."""


@dataclass(frozen=True, kw_only=True)
class LabelRule(AlertRule):
    """A number of turns with a label and a minimal probability that end within some seconds.

    Attributes:
        label: a label of the model.
        at_least: its minimal probability.
        turns: their number.
        within: seconds from the end of the first to the end of the last.
    """

    label: str
    at_least: float = 0.6
    turns: int = 3
    within: float = 60.0

    def __post_init__(self):
        super().__post_init__()
        _check_above(0, self, "within")
        if not isinstance(self.label, str):
            raise ValueError(f"label must be a label of the model, got {self.label!r}.")
        if isinstance(self.turns, bool) or not isinstance(self.turns, int) or self.turns < 1:
            raise ValueError(f"turns must be an integer of at least 1, got {self.turns!r}.")
        if not _is_number(self.at_least) or not 0 <= self.at_least <= 1:
            raise ValueError(f"at_least must be a probability, from 0 to 1, got {self.at_least!r}.")

    def _needs(self):
        return (self.label,), ()

    def _matches(self, turns: list[TurnEmotion]) -> bool:
        last = turns[-1].end
        matching = [turn for turn in turns if turn.scores.get(self.label, 0.0) >= self.at_least]
        recent = [turn for turn in matching if turn.end >= last - self.within]
        return matching[-1:] == turns[-1:] and len(recent) >= self.turns


@dataclass(frozen=True, kw_only=True)
class SurpriseRule(AlertRule):
    """A turn whose surprise is above `above`."""

    above: float

    def __post_init__(self):
        super().__post_init__()
        _check_above(-math.inf, self, "above")

    def _matches(self, turns: list[TurnEmotion]) -> bool:
        return turns[-1].surprise > self.above


@dataclass(frozen=True, kw_only=True)
class MoodRule(AlertRule):
    """A mood that stays below `below` for some seconds.

    Attributes:
        below: the bound.
        seconds: how long the mood must be below it, at the end of every turn.
        time_constant: time constant of the mood's exponential mean, in seconds.
        weights: of the labels' probabilities, whose sum is the mood of a turn: {happy = 1, angry = -1}; without them,
            the mood is the model's valence.
    """

    below: float
    seconds: float = 30.0
    time_constant: float = 30.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        super().__post_init__()
        _check_above(0, self, "seconds", "time_constant")
        _check_above(-math.inf, self, "below")
        weights = self.weights
        if not isinstance(weights, Mapping) or not all(isinstance(label, str) for label in weights):
            raise ValueError(f"weights must be numbers by label, as in {{happy = 1, angry = -1}}, got {weights!r}.")
        for label, weight in weights.items():
            if not _is_number(weight):
                raise ValueError(f"The weight of {label!r} must be a finite number, got {weight!r}.")

    def _needs(self):
        return (self.weights, ()) if self.weights else ((), ("valence",))

    def _matches(self, turns: list[TurnEmotion]) -> bool:
        spoken = [turn for turn in turns if (turn.scores if self.weights else "valence" in turn.values)]
        if not spoken or spoken[-1] is not turns[-1]:
            return False
        times = [turn.end for turn in spoken]
        moods = rolling_mean(times, [self._mood(turn) for turn in spoken], self.time_constant)
        since = len(moods)
        while since and moods[since - 1] < self.below:
            since -= 1
        return since < len(moods) and times[-1] - times[since] >= self.seconds

    def _mood(self, turn: TurnEmotion) -> float:
        if not self.weights:
            return turn.values["valence"]
        return sum(weight * turn.scores.get(label, 0.0) for label, weight in self.weights.items())


RULES: dict[str, type[AlertRule]] = {"label": LabelRule, "surprise": SurpriseRule, "mood": MoodRule}


def read_rules(path: str | Path) -> list[AlertRule]:
    """The rules of a TOML file: tables `[[label]]`, `[[surprise]]` and `[[mood]]`, each with the fields of its rule.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: for invalid TOML, an unknown kind or field, or a value out of range; names the file and the rule.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if not content or {*content} - {*RULES} or not all(isinstance(rules, list) for rules in content.values()):
        raise ValueError(f"{path} may hold the tables {_tables(RULES)}, got {_tables(content) or 'none'}.")
    rules = [_rule(RULES[kind], given, str(path)) for kind, several in content.items() for given in several]
    names = [rule.name for rule in rules]
    if len({*names}) < len(names):
        raise ValueError(f"{path}: the names of rules must differ, got {', '.join(names)}.")
    return rules


def _rule(kind: type[AlertRule], given: Any, path: str) -> AlertRule:
    known = {one.name for one in fields(kind)}
    if not isinstance(given, dict) or {*given} - known:
        raise ValueError(f"{path}: a rule has the fields {', '.join(sorted(known))}, got {given}.")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}, rule {given.get('name')!r}: {error}") from None


def _tables(names: Mapping[str, Any]) -> str:
    return ", ".join(f"[[{name}]]" for name in names)


def _is_number(value: Any) -> bool:
    """Whether a value is a number, and not too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_above(bound: float, rule: AlertRule, *names: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if not _is_number(value) or not value > bound:
            allowed = "a finite number" if bound == -math.inf else f"a finite number above {bound}"
            raise ValueError(f"{name} must be {allowed}, got {value!r}.")
