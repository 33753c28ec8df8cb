"""Plots of a report: confusion matrices, accuracy by history, calibration; the file suffix selects the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .report_tables import is_thin


# Conditions shown, if the report has them: with memory, and without.
_SHOWN = ("memory", "memory_off")
# Colour-blind safe colours by Okabe and Ito, and markers, so that lines can be distinguished without colour.
_STYLES = {
    "memory": ("#0072B2", "o", "-"),
    "memory_off": ("#D55E00", "s", "-"),
    "reset": ("#009E73", "^", "--"),
    "speaker_normalised": ("#CC79A7", "D", "--"),
    "speaker_centred": ("#56B4E9", "P", "--"),
    "transitions": ("#E69F00", "v", "--"),
    "copy_previous": ("#777777", "x", ":"),
}
_THIN = "0.75"


# Disable math text, so that dollar signs in labels are drawn as they are.
_PLAIN = rc_context({"text.parse_math": False})


@_PLAIN
def draw_confusion(content: dict, *paths: str | Path) -> None:
    """Draw the confusion matrices of memory on and off side by side, with counts and shares of each row."""
    conditions = content["conditions"]
    names = [name for name in _SHOWN if name in conditions] or list(conditions)[:1]
    if not names:
        return
    labels = content["protocol"]["labels"]
    has_none = any(row[-1] for name in names for row in conditions[name]["confusion"])
    predicted = [*labels, "none"] if has_none else labels
    size = 1.6 + 0.75 * len(predicted)
    figure = _figure(size * len(names) + 0.6, 1.4 + 0.6 * len(labels))
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        counts = np.array(conditions[name]["confusion"])[:, : len(predicted)]
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = f"{100 * shares[row, column]:.0f} %\n{count}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(predicted)), predicted, rotation=30, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=conditions[name]["title"], xlabel="predicted", ylabel="label")
    _save(figure, *paths)


@_PLAIN
def draw_history(content: dict, *paths: str | Path) -> None:
    """Draw WA by the number of earlier turns of the speaker with 95 % intervals, for memory on and its baselines.

    Ranges with few turns are grey and not connected by a line.
    """
    conditions = {name: condition for name, condition in content["conditions"].items() if name in _STYLES}
    conditions = conditions or dict(list(content["conditions"].items())[:1])
    if not conditions:
        return
    first = next(iter(conditions.values()))["by_history"]
    figure = _figure(8, 4)
    axes = figure.subplots()
    for number, (name, condition) in enumerate(conditions.items()):
        colour, marker, line = _STYLES.get(name, _STYLES["memory"])
        # Shifted, so that intervals do not overlap.
        shift = 0.08 * (number - (len(conditions) - 1) / 2)
        found = list(condition["by_history"].values())
        places = np.arange(len(found)) + shift
        shares = np.array([100 * bin["wa"] for bin in found])
        thin = np.array([is_thin(bin) for bin in found])
        axes.plot(places, np.where(thin, np.nan, shares), line, color=colour, marker=marker, label=condition["title"])
        axes.plot(places[thin], shares[thin], linestyle="none", color=_THIN, marker=marker, zorder=1)
        for place, share, bin in zip(places, shares, found):
            if not is_thin(bin) and bin.get("interval"):
                low, high = (100 * end for end in bin["interval"])
                axes.errorbar(place, share, [[share - low], [high - share]], color=colour, capsize=2, linewidth=0.8)
    ticks = [f"{depth}\n{found['turns']} turns" for depth, found in first.items()]
    axes.set_xticks(range(len(ticks)), ticks)
    for tick, found in zip(axes.get_xticklabels(), first.values()):
        tick.set_color(_THIN if is_thin(found) else "black")
    axes.set(xlabel="earlier turns of the speaker in the conversation", ylabel="correct turns (WA), %", ylim=(0, 100))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, *paths)


@_PLAIN
def draw_calibration(content: dict, *paths: str | Path) -> None:
    """Draw accuracy by confidence, and accuracy by the share of answered turns, with memory on and off.

    Nothing is drawn if no condition has probabilities.
    """
    conditions = {
        name: content["conditions"][name]
        for name in _SHOWN
        if content["conditions"].get(name, {}).get("calibration") is not None
    }
    if not conditions:
        return
    figure = _figure(9, 4)
    reliability, coverage = figure.subplots(1, 2)
    reliability.plot([0, 1], [0, 1], ":", color="0.5", linewidth=1)
    for name, condition in conditions.items():
        colour, marker, line = _STYLES[name]
        found = condition["calibration"]
        label = f"{condition['title']}, ECE {100 * found['ece']:.1f} points"
        confidence, accuracy, turns = zip(*((b["confidence"], b["accuracy"], b["turns"]) for b in found["bins"]))
        reliability.plot(confidence, accuracy, line, color=colour, label=label)
        sizes = 10 + 150 * np.array(turns) / sum(turns)
        reliability.scatter(confidence, accuracy, sizes, color=colour, marker=marker, alpha=0.7)
        curve = found["coverage"]
        coverage.plot([p["coverage"] for p in curve], [p["accuracy"] for p in curve], line, color=colour)
    reliability.set(xlabel="probability of the answer", ylabel="correct turns", xlim=(0, 1), ylim=(0, 1))
    reliability.legend(loc="upper left", frameon=False, fontsize=8)
    coverage.set(xlabel="share of turns answered", ylabel="of these correct", xlim=(0, 1.02), ylim=(0, 1.02))
    for axes in (reliability, coverage):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, *paths)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, *paths: str | Path) -> None:
    for path in map(Path, paths):
        # Without it, a PDF would contain the time.
        figure.savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
        # Use the layout of the first format for all.
        figure.set_layout_engine("none")
