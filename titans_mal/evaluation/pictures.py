"""Pictures of a report: confusion matrices, and accuracy by history."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


# What the pictures show, where a report has it: the memory, and what it must beat.
_SHOWN = ("memory", "reads_off")
# Of Okabe and Ito's colours for the colour-blind, and markers, so that lines are told apart without colour as well.
_STYLES = {
    "memory": ("#0072B2", "o", "-"),
    "reads_off": ("#D55E00", "s", "-"),
    "reset": ("#009E73", "^", "--"),
    "speaker_normalised": ("#CC79A7", "D", "--"),
    "copy_previous": ("#777777", "x", ":"),
}


def draw_confusion(content: dict, path: str | Path) -> Path:
    """The confusion matrices of memory on and off side by side; shares of each row, and counts."""
    columns = content["columns"]
    names = [name for name in _SHOWN if name in columns] or list(columns)[:1]
    labels = content["protocol"]["labels"]
    has_none = any(row[-1] for name in names for row in columns[name]["confusion"])
    predicted = [*labels, "none"] if has_none else labels
    size = 1.6 + 0.75 * len(predicted)
    figure = Figure(figsize=(size * len(names) + 0.6, 1.4 + 0.6 * len(labels)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names):
        counts = np.array(columns[name]["confusion"])[:, : len(predicted)]
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else "black"
            text = f"{100 * shares[row, column]:.0f} %\n{count}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(predicted)), predicted, rotation=30, ha="right")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=columns[name]["title"], xlabel="predicted", ylabel="label")
    return _save(figure, path)


def draw_history(content: dict, path: str | Path) -> Path:
    """WA by the number of earlier turns of the speaker, for memory on and what it must beat."""
    columns = {name: column for name, column in content["columns"].items() if name in _STYLES}
    columns = columns or dict(list(content["columns"].items())[:1])
    first = next(iter(columns.values()))["by_history"]
    figure = Figure(figsize=(8, 4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, column in columns.items():
        colour, marker, line = _STYLES.get(name, ("#0072B2", "o", "-"))
        shares = [100 * found["wa"] for found in column["by_history"].values()]
        axes.plot(range(len(shares)), shares, line, color=colour, marker=marker, label=column["title"])
    ticks = [f"{depth}\n{found['turns']} turns" for depth, found in first.items()]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel="earlier turns of the speaker in the conversation", ylabel="turns right, %", ylim=(0, 100))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return _save(figure, path)


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    figure.savefig(path)
    return path
