"""How much of the information in the history a model uses, with intervals by conversation.

Gap closed = (model - utterance) / (bound - utterance), where utterance is the same model without history and bound the
best possible one. All three are compared on the same turns, so the luck of the draw cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from titans_mal.data.synthetic.bayes_bound import BayesClassifier
from titans_mal.data.synthetic.suites import Script, Suite


Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """Which scored turns are right.

    Attributes:
        right: (seeds, turns) bool, one row for each training.
        conversations: (turns,) int, the conversation that a turn is of.
    """

    right: np.ndarray
    conversations: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def by_conversation(self) -> tuple[np.ndarray, np.ndarray]:
        """(conversations,) turns that are right, averaged over the seeds, and all turns."""
        numbers = np.unique(self.conversations, return_inverse=True)[1]
        return np.bincount(numbers, self.right.mean(0)), np.bincount(numbers)


@dataclass(frozen=True)
class Row:
    """One row of a table: the scores of a model, its trained parameters, and its time for a turn."""

    name: str
    scores: Scores
    parameters: int | None = None
    milliseconds: float | None = None


def scored_turns(scripts: Sequence[Script]) -> tuple[np.ndarray, np.ndarray]:
    """(turns,) int each: conversation and index therein of every turn that is not an introduction."""
    pairs = [(c, i) for c, s in enumerate(scripts) for i, turn in enumerate(s.turns) if not turn.is_introduction]
    conversations, indices = np.array(pairs).T
    return conversations, indices


def bound_scores(suite: Suite, scripts: Sequence[Script], *, uses_history: bool = True) -> Scores:
    """The scores of the best possible model on these conversations; one seed, since nothing is trained."""
    classifier = BayesClassifier(suite, uses_history=uses_history)
    predicted = [classifier.predict(script.turns).argmax(-1) for script in scripts]
    conversations, indices = scored_turns(scripts)
    right = [predicted[c][i] == scripts[c].turns[i].emotion for c, i in zip(conversations, indices)]
    return Scores(np.array(right)[None], conversations)


def gap_closed(
    model: Scores, utterance: Scores, bound: Scores, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, Interval]:
    """The share of the gap that `model` closes, and its 95 % interval.

    Args:
        model: with history.
        utterance: the same model without history.
        bound: the best possible model.
        resamples, seed: of the bootstrap over conversations.

    Raises:
        ValueError: there is no gap, or the scores are of different turns.
    """
    if bound.accuracy <= utterance.accuracy:
        raise ValueError(f"There is no gap: bound {bound.accuracy:.3f}, utterance only {utterance.accuracy:.3f}.")
    return _bootstrap((model, utterance, bound), lambda m, u, b: (m - u) / (b - u), resamples, seed)


def difference(model: Scores, other: Scores, *, resamples: int = 2000, seed: int = 0) -> tuple[float, Interval]:
    """Accuracy of one model minus that of another, and its 95 % interval; arguments as `gap_closed`."""
    return _bootstrap((model, other), lambda m, o: m - o, resamples, seed)


def _bootstrap(
    scores: Sequence[Scores], statistic: Callable[..., np.ndarray], resamples: int, seed: int
) -> tuple[float, Interval]:
    """A statistic of the models' accuracies, paired: each resample takes the same conversations for all."""
    if any(not np.array_equal(s.conversations, scores[0].conversations) for s in scores):
        raise ValueError("Scores can only be compared on the same turns.")
    right = np.stack([s.by_conversation()[0] for s in scores])
    turns = scores[0].by_conversation()[1]
    value = statistic(*(right.sum(1) / turns.sum()))
    count = len(turns)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    low, high = np.percentile(statistic(*(right @ drawn.T / (drawn @ turns))), (2.5, 97.5))
    return float(value), (float(low), float(high))


def gap_table(rows: Sequence[Row], utterance: Scores, bound: Scores, *, has_gap: bool = True) -> str:
    """The Markdown table of the README.

    Args:
        rows: of the table.
        utterance, bound: the ends of the gap.
        has_gap: False if history carries no information: then points of accuracy over utterance only.
    """
    head = "gap closed" if has_gap else "points over utterance only"
    lines = [
        f"| model | seeds | accuracy, % | {head} (95 % interval) | parameters trained | ms a turn |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if has_gap:
            value, (low, high) = gap_closed(row.scores, utterance, bound)
            cell = f"{value:.2f} ({low:.2f} to {high:.2f})"
        else:
            value, (low, high) = difference(row.scores, utterance)
            cell = f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        parameters = "-" if row.parameters is None else f"{row.parameters:,}"
        milliseconds = "-" if row.milliseconds is None else f"{row.milliseconds:.2g}"
        cells = (row.name, len(row.scores.right), f"{100 * row.scores.accuracy:.1f}", cell, parameters, milliseconds)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def draw_gaps(
    gaps: Mapping[str, tuple[float, Interval]],
    path: str | Path,
    *,
    title: str,
    label: str = "gap closed",
    to_reach: float | None = None,
) -> Path:
    """A picture: a bar with its interval for each name, and a line at the target."""
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(gaps)), layout="constrained", dpi=150)
    axes = figure.subplots()
    values = np.array([value for value, _ in gaps.values()])
    ends = np.array([interval for _, interval in gaps.values()])
    errors = np.stack([values - ends[:, 0], ends[:, 1] - values]).clip(min=0)
    # Okabe and Ito's colours for the colour-blind.
    # Errors as lists: Matplotlib takes an array of those of a single bar for a number.
    axes.barh(range(len(gaps)), values, color="#56B4E9", xerr=errors.tolist(), ecolor="black", capsize=3)
    if to_reach is not None:
        axes.axvline(to_reach, color="#D55E00", linestyle="--", label=f"to reach: {to_reach:g}")
        axes.legend(loc="lower right", frameon=False)
    axes.set_yticks(range(len(gaps)), list(gaps))
    axes.invert_yaxis()
    axes.set(title=title, xlabel=f"{label}, with 95 % interval by conversation")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    figure.savefig(path)
    return path
