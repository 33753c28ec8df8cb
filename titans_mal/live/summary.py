"""Summary of a conversation so far: shares of emotions, rolling mood, runs and changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .turns import TurnEmotion


@dataclass(frozen=True)
class LabelRun:
    """Successive turns of one speaker with the same label.

    Attributes:
        label: the label of these turns.
        turns: their number.
        start, end: seconds of the conversation.
    """

    label: str
    turns: int
    start: float
    end: float


@dataclass(frozen=True)
class LabelChange:
    """A turn with another label than the previous turn of the same speaker.

    Attributes:
        before, after: the labels.
        at: seconds of the conversation at which the turn starts.
    """

    before: str
    after: str
    at: float


@dataclass(frozen=True)
class SpeakerSummary:
    """Summary of one speaker; turns without a label (not scored) only count in `turns` and `seconds`.

    Attributes:
        speaker: None if unknown.
        turns: their number.
        seconds: length of the speech, in seconds.
        shares: share of each label in all labelled turns; they sum to 1.
        shares_of_time: the same, weighted by seconds.
        mood: for each label, the rolling mean of its probability at the end of the last turn (`rolling_mean`).
        longest_run: the longest run of turns with the same label; None without labels.
        last_change: of the label; None if there was none.
        dimensions: for each of the model's dimensions (valence, ...), [end of the turn in seconds, value, rolling
            mean] of every turn.
    """

    speaker: str | None
    turns: int
    seconds: float
    shares: dict[str, float]
    shares_of_time: dict[str, float]
    mood: dict[str, float]
    longest_run: LabelRun | None
    last_change: LabelChange | None
    dimensions: dict[str, list[tuple[float, float, float]]]


def rolling_mean(times: Sequence[float], values: Sequence[float], time_constant: float) -> list[float]:
    """The exponential mean at each time: m_0 = x_0, m_i = m_{i-1} + (1 - exp(-(t_i - t_{i-1}) / T)) (x_i - m_{i-1}).

    Args:
        times: times in seconds; a time before the previous one is replaced by the previous one.
        values: the value at each time.
        time_constant: T, in seconds, after which a value's weight has fallen to 1/e.
    """
    means: list[float] = []
    for index, value in enumerate(values):
        if not means:
            means.append(value)
            continue
        elapsed = max(0.0, times[index] - times[index - 1])
        means.append(means[-1] - math.expm1(-elapsed / time_constant) * (value - means[-1]))
    return means


def summarize(turns: Sequence[TurnEmotion], *, time_constant: float = 30.0) -> list[SpeakerSummary]:
    """A summary of each speaker, in order of appearance.

    Args:
        turns: turns of a conversation, in order.
        time_constant: time constant of the rolling means, in seconds.

    Raises:
        ValueError: for a time constant that is not above 0.
    """
    if not 0 < time_constant < math.inf:
        raise ValueError(f"time_constant must be a number of seconds above 0, got {time_constant!r}.")
    by_speaker: dict[str | None, list[TurnEmotion]] = {}
    for turn in turns:
        by_speaker.setdefault(turn.speaker, []).append(turn)
    return [_summary(speaker, spoken, time_constant) for speaker, spoken in by_speaker.items()]


def _summary(speaker: str | None, turns: list[TurnEmotion], time_constant: float) -> SpeakerSummary:
    labelled = [turn for turn in turns if turn.label is not None]
    runs = _runs(labelled)
    changes = [LabelChange(one.label, other.label, other.start) for one, other in itertools.pairwise(runs)]
    return SpeakerSummary(
        speaker,
        len(turns),
        sum(turn.end - turn.start for turn in turns),
        _shares(labelled, [1.0] * len(labelled)),
        _shares(labelled, [turn.end - turn.start for turn in labelled]),
        _mood(labelled, time_constant),
        max(runs, key=lambda run: (run.turns, run.end - run.start), default=None),
        changes[-1] if changes else None,
        _dimensions(turns, time_constant),
    )


def _shares(turns: list[TurnEmotion], weights: list[float]) -> dict[str, float]:
    total = sum(weights)
    shares = dict.fromkeys((name for turn in turns for name in (*turn.scores, turn.label)), 0.0)
    for turn, weight in zip(turns, weights):
        shares[turn.label] += weight / total
    return {str(name): share for name, share in shares.items()}


def _mood(turns: list[TurnEmotion], time_constant: float) -> dict[str, float]:
    """The mood for the labels of the last turn; a label that an earlier request excluded had probability 0 there."""
    times = [turn.end for turn in turns]
    return {
        label: rolling_mean(times, [turn.scores.get(label, 0.0) for turn in turns], time_constant)[-1]
        for label in (turns[-1].scores if turns else ())
    }


def _runs(turns: list[TurnEmotion]) -> list[LabelRun]:
    runs: list[LabelRun] = []
    for turn in turns:
        if runs and runs[-1].label == turn.label:
            last = runs.pop()
            runs.append(LabelRun(last.label, last.turns + 1, last.start, max(last.end, turn.end)))
        else:
            runs.append(LabelRun(str(turn.label), 1, turn.start, turn.end))
    return runs


def _dimensions(turns: list[TurnEmotion], time_constant: float) -> dict[str, list[tuple[float, float, float]]]:
    lines = {}
    for name in dict.fromkeys(name for turn in turns for name in turn.values):
        spoken = [turn for turn in turns if name in turn.values]
        times, values = [turn.end for turn in spoken], [turn.values[name] for turn in spoken]
        lines[name] = list(zip(times, values, rolling_mean(times, values, time_constant)))
    return lines
