"""Picture of one conversation: speakers over time, their emotions, and the surprise of the memory.

This module imports nothing from titans_mal, since it is copied into Spaces. It uses matplotlib's object interface
only: it keeps no global state, needs no display, and can draw in several threads at once.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator


Turn = Mapping[str, Any]

# The palette of Okabe and Ito, which the colour-blind can tell apart, with grey for black, which text and lines use.
_COLOURS = ("#D55E00", "#0072B2", "#F0E442", "#999999", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_RED, _BLUE, _YELLOW, _GREY, _GREEN, _PURPLE, _ORANGE, _SKY = _COLOURS
# The colours that people expect of emotions, by the labels of the corpora.
_EXPECTED = {
    _RED: ("angry", "anger", "mad", "frustrated", "frustration"),
    _BLUE: ("sad", "sadness", "depressed"),
    _YELLOW: ("happy", "happiness", "joy", "joyful", "excited", "excitement"),
    _GREY: ("neutral", "bored", "boredom", "other", "unknown"),
    _GREEN: ("disgust", "disgusted", "contempt"),
    _PURPLE: ("fear", "fearful", "scared", "afraid"),
    _ORANGE: ("surprise", "surprised", "powerful"),
    _SKY: ("calm", "peaceful", "relaxed"),
}
_COLOUR_OF = {word: colour for colour, words in _EXPECTED.items() for word in words}
_RANKS = {word: rank for rank, word in enumerate(_COLOUR_OF)}  # of two words of a colour, the earlier one has it plain
_HATCHES = ("", "///", "...", "xxx")

BAR_HEIGHT = 0.76  # height of a bar at probability 1; lanes are 1 apart
_STRIP_HEIGHT, _STRIP_DROP = 0.1, 0.14
_OUTLINE: dict[str, Any] = {"facecolor": "0.965", "edgecolor": "0.8", "linewidth": 0.5}
_BAR_EDGE: dict[str, Any] = {"edgecolor": "0.25", "linewidth": 0.4}
_STRIP_EDGE: dict[str, Any] = {"edgecolor": "black", "linewidth": 0.6}

_MOST_TURNS_WITH_TEXT = 40
_FONT_SIZE = 8  # points, for the labels on bars
_LETTER_INCHES = 0.065  # approximate mean width of a letter at that size
_LINE_INCHES = 0.14


def draw_figure(
    turns: Sequence[Turn],
    path: str | Path,
    *,
    turns_without_memory: Sequence[Turn] | None = None,
    title: str | None = None,
) -> Path:
    """Write the picture of `timeline_figure`; the suffix of `path` (.png, .svg or .pdf) selects the format.

    Raises:
        ValueError: as `timeline_figure`.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    figure = timeline_figure(turns, turns_without_memory=turns_without_memory, title=title)
    figure.savefig(path, format=path.suffix.lower().removeprefix("."), dpi=150)
    return path


@dataclass(frozen=True)
class Layout:
    """Layout shared by all panels.

    Attributes:
        starts, widths: start and width of each turn, in seconds or turns.
        unit: label of the time axis.
        speakers: the speakers in order of appearance, from the top lane down.
        bases: vertical position of each turn's lane.
        styles: fill of the bars of each label.
        inches: width of the figure.
    """

    starts: list[float]
    widths: list[float]
    unit: str
    speakers: list[str | None]
    bases: list[float]
    styles: dict[str, dict[str, Any]]
    inches: float

    @property
    def ends(self) -> list[float]:
        return [start + width for start, width in zip(self.starts, self.widths)]

    @property
    def limits(self) -> tuple[float, float]:
        """Limits of the time axis, with a margin."""
        first, last = min(self.starts), max(self.ends)
        air = 0.01 * (last - first) or 0.5
        return first - air, last + air


# Disable math text, so that dollar signs in names and labels are drawn as they are.
@rc_context({"text.parse_math": False})
def timeline_figure(
    turns: Sequence[Turn], *, turns_without_memory: Sequence[Turn] | None = None, title: str | None = None
) -> Figure:
    """The figure of a conversation; its axes: lanes, values and surprise if known, lanes without memory.

    Args:
        turns, turns_without_memory, title: as `titans_mal.draw_timeline`.

    Raises:
        ValueError: as `titans_mal.draw_timeline`, except for the suffix.
    """
    check_turns(turns, turns_without_memory)
    turns = [_drawable(turn) for turn in turns]
    if turns_without_memory is not None:
        turns_without_memory = [_drawable(turn) for turn in turns_without_memory]
    layout = lay_out(turns, turns_without_memory or ())
    surprises = [mean_surprise(turn) for turn in turns]
    lanes_inches = len(layout.speakers) * max(0.4, min(1.0, 4 / len(layout.speakers))) + 0.2

    panels: list[tuple[float, Callable, Any]] = [(lanes_inches, _draw_lanes, turns)]
    if any(turn.get("values") for turn in turns):
        panels.append((1.0, _draw_values, turns))
    if not all(map(math.isnan, surprises)):
        panels.append((0.7, _draw_surprise, surprises))
    if turns_without_memory is not None:
        panels.append((lanes_inches, _draw_lanes, turns_without_memory))
    ratios = [inches for inches, _, _ in panels]

    figure = Figure(figsize=(layout.inches, sum(ratios) + 1.5), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for panel, (_, draw, content) in zip(axes, panels):
        draw(panel, content, layout)
    if turns_without_memory is not None:
        axes[0].set_title("memory on", loc="left", fontsize=10)
        axes[-1].set_title("memory off", loc="left", fontsize=10)
    axes[-1].set_xlabel(layout.unit)
    axes[-1].set_xlim(layout.limits)
    ticks = MaxNLocator(nbins=int(layout.inches), steps=[1, 2, 5, 10], integer=layout.unit == "turn")
    axes[-1].xaxis.set_major_locator(ticks)

    title = turns[0]["conversation_id"] if title is None else title
    figure.suptitle(_drawable(str(title or "")), fontsize=12)
    has_gold = any(is_missed(turn) for turn in [*turns, *(turns_without_memory or ())])
    handles = _legend_handles(layout.styles, has_gold=has_gold)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=int(layout.inches / 1.6), fontsize=9, frameon=False
    )
    return figure


def check_turns(turns: Sequence[Turn], turns_without_memory: Sequence[Turn] | None) -> None:
    if not turns:
        raise ValueError("got no turns: a timeline needs at least one")
    if turns_without_memory is not None and len(turns_without_memory) != len(turns):
        raise ValueError(
            f"got {len(turns)} turns but {len(turns_without_memory)} turns without memory: the numbers must be equal"
        )
    everything = [*turns, *(turns_without_memory or ())]
    conversations = list(dict.fromkeys(turn["conversation_id"] for turn in everything))
    if len(conversations) > 1:
        raise ValueError(f"got turns of conversations {', '.join(map(repr, conversations))}: only one is allowed")
    for turn in everything:
        if (
            turn["score"] is not None and not 0 <= turn["score"] <= 1 + 1e-6
        ):  # rounding may leave a probability just above 1
            raise ValueError(f"turn {turn['turn_index']} has score {turn['score']}: allowed are 0 to 1")
        if _has_times(turn) and turn["end"] < turn["start"]:
            raise ValueError(
                f"turn {turn['turn_index']} starts at {turn['start']} s and ends at {turn['end']} s: "
                "a turn must not end before it starts"
            )


def _drawable(value: Any) -> Any:
    """A turn, or a part of one, with escapes for characters that are not UTF-8, which no font and no SVG can have."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_drawable(key): _drawable(part) for key, part in value.items()}
    return value


def lay_out(turns: Sequence[Turn], turns_without_memory: Sequence[Turn]) -> Layout:
    if all(map(_has_times, turns)):
        unit = "time (s)"
        starts = [turn["start"] for turn in turns]
        widths = [turn["end"] - turn["start"] for turn in turns]
    else:
        unit = "turn"
        starts = [turn["turn_index"] - 0.5 for turn in turns]  # centres bars on integer ticks
        widths = [1.0] * len(turns)

    speakers = list(dict.fromkeys(turn.get("speaker") for turn in turns))
    lanes = {speaker: len(speakers) - 1 - place for place, speaker in enumerate(speakers)}
    return Layout(
        starts=starts,
        widths=widths,
        unit=unit,
        speakers=speakers,
        bases=[lanes[turn.get("speaker")] for turn in turns],
        styles=_styles([*turns, *turns_without_memory]),
        inches=min(max(8.0, 0.35 * len(turns)), 20.0),
    )


def _styles(turns: Sequence[Turn]) -> dict[str, dict[str, str]]:
    """Colour and hatch of each label, sorted, those of `scores` first.

    A label has the colour that is expected of its emotion, hatched where a label before it has that one; a label of no
    known emotion takes the first colour, then the first hatched one, that none of the others has.
    """
    scored = {label for turn in turns for label in turn["scores"]}
    # Labels without a score, such as gold labels, come last, so that they do not change the colours of the others.
    unscored = {label for turn in turns for label in (turn["label"], turn.get("emotion")) if label} - scored
    looks = [(colour, hatch) for hatch in _HATCHES for colour in _COLOURS]
    chosen: dict[str, tuple[str, str]] = {}
    for labels in (sorted(scored), sorted(unscored)):
        for label in sorted(labels, key=lambda label: _RANKS.get(label.lower(), len(_RANKS))):
            expected = _COLOUR_OF.get(label.lower())
            free = [look for look in looks if look not in chosen.values() and expected in (None, look[0])]
            # With more labels than looks, some share one.
            chosen[label] = free[0] if free else looks[len(chosen) % len(looks)]
    return {
        label: {"facecolor": chosen[label][0], "hatch": chosen[label][1]}
        for label in sorted(scored) + sorted(unscored)
    }


def _draw_lanes(axes: Axes, turns: Sequence[Turn], layout: Layout) -> None:
    """Draw one lane per speaker, with a bar for each turn, and its gold label if that differs."""

    def fills(labels: list[str]) -> dict[str, Any]:
        styles = [layout.styles[label] for label in labels]
        return {"color": [style["facecolor"] for style in styles], "hatch": [style["hatch"] for style in styles]}

    def bars(picked: list[int], heights: list[float] | float, *, drop: float = 0.0, **look: Any) -> None:
        starts, widths = [layout.starts[i] for i in picked], [layout.widths[i] for i in picked]
        axes.bar(starts, heights, widths, [layout.bases[i] - drop for i in picked], align="edge", **look)

    every = list(range(len(turns)))
    bars(every, BAR_HEIGHT, **_OUTLINE)
    # A model that predicts only dimensions has no labels.
    labelled = [i for i in every if turns[i]["label"] is not None]
    heights = [BAR_HEIGHT * turns[i]["score"] for i in labelled]
    bars(labelled, heights, **_BAR_EDGE, **fills([turns[i]["label"] for i in labelled]))
    missed = [i for i in every if is_missed(turns[i])]
    if missed:
        golds = fills([turns[i]["emotion"] for i in missed])
        bars(missed, _STRIP_HEIGHT, drop=_STRIP_DROP, **_STRIP_EDGE, **golds)
    if len(turns) <= _MOST_TURNS_WITH_TEXT:
        _write_labels(axes, turns, layout)

    count = len(layout.speakers)
    names = [textwrap.fill(str(name), 16) if name is not None else "(unknown)" for name in layout.speakers]
    axes.set_yticks([count - 1 - place + BAR_HEIGHT / 2 for place in range(count)], names)
    axes.set_ylim(-0.2, count - 0.15)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _write_labels(axes: Axes, turns: Sequence[Turn], layout: Layout) -> None:
    """Write each label on its bar: horizontally if it fits, else vertically if that fits."""
    first, last = layout.limits
    inches_per_unit = (layout.inches - 1.5) / (last - first)  # 1.5 inches are for the speakers' names
    for turn, start, width, base in zip(turns, layout.starts, layout.widths, layout.bases):
        room = width * inches_per_unit
        if room < _LINE_INCHES or turn["label"] is None:
            continue
        axes.text(
            start + width / 2,
            base + 0.06,
            turn["label"],
            fontsize=_FONT_SIZE,
            ha="center",
            va="bottom",
            rotation=0 if room > _LETTER_INCHES * len(turn["label"]) + 0.05 else 90,
            path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.85)],
        )


def _draw_values(axes: Axes, turns: Sequence[Turn], layout: Layout) -> None:
    """Draw a line for each dimension of emotion, with a legend on the right."""
    middles = [(start + end) / 2 for start, end in zip(layout.starts, layout.ends)]
    for place, (name, values) in enumerate(values_by_dimension(turns).items()):
        points = sorted(zip(middles, values))
        colour = _COLOURS[-1 - place % len(_COLOURS)]
        axes.plot(*zip(*points), color=colour, linewidth=1.2, marker="os^D"[place % 4], markersize=3, label=name)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    axes.set_ylabel("values", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_surprise(axes: Axes, surprises: Sequence[float], layout: Layout) -> None:
    middles = [(start + end) / 2 for start, end in zip(layout.starts, layout.ends)]
    points = sorted(zip(middles, surprises))  # turns may overlap, but the line must go forward in time
    size = 3 if len(points) <= 100 else 1.5
    axes.plot(*zip(*points), color="black", linewidth=1, marker="o", markersize=size)
    axes.set_ylabel("surprise", fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", color="0.9", linewidth=0.5)
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_handles(styles: dict[str, dict[str, Any]], *, has_gold: bool) -> list[Patch]:
    handles = [Patch(label=label, **_BAR_EDGE, **style) for label, style in styles.items()]
    handles.append(Patch(label="full height: probability 1", **_OUTLINE))
    if has_gold:
        handles.append(Patch(facecolor="white", label="strip: gold label, where it differs", **_STRIP_EDGE))
    return handles


def _has_times(turn: Turn) -> bool:
    return turn.get("start") is not None and turn.get("end") is not None


def is_missed(turn: Turn) -> bool:
    """Whether the gold label is known and differs from the turn's label."""
    return bool(turn.get("emotion")) and turn["emotion"] != turn["label"]


def values_by_dimension(turns: Sequence[Turn]) -> dict[str, list[float]]:
    """Values of each dimension of emotion in every turn, NaN if unknown."""
    names = dict.fromkeys(name for turn in turns for name in turn.get("values") or ())
    return {name: [(turn.get("values") or {}).get(name, math.nan) for turn in turns] for name in names}


def mean_surprise(turn: Turn) -> float:
    """Mean over the memory layers; NaN (a gap in the line) if unknown."""
    surprise = turn.get("surprise")
    if isinstance(surprise, Sequence):
        return fmean(surprise) if surprise else math.nan
    return math.nan if surprise is None else float(surprise)
