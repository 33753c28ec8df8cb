"""The timeline as one interactive HTML file, drawn by Plotly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path

from .extras import extra
from .timeline_figure import (
    BAR_HEIGHT,
    Layout,
    Turn,
    check_turns,
    is_missed,
    lay_out,
    mean_surprise,
    values_by_dimension,
)


_LANE_PIXELS, _SURPRISE_PIXELS, _REST_PIXELS = 70, 110, 190
_LINE_COLOURS = ("black", "#0072B2", "#D55E00", "#009E73")
# Plotly's names for matplotlib's hatches.
_PATTERNS = {"": "", "///": "/", "...": ".", "xxx": "x"}


def write_timeline_html(
    turns: Sequence[Turn],
    path: Path,
    *,
    turns_without_memory: Sequence[Turn] | None = None,
    title: str | None = None,
    include_plotlyjs: bool | str = True,
) -> Path:
    """Draw the turns of one conversation into an HTML file; arguments and errors as `draw_timeline`.

    Raises:
        ImportError: if Plotly is not installed.
    """
    with extra("html", "A timeline in HTML"):
        from plotly.subplots import make_subplots
    check_turns(turns, turns_without_memory)
    layout = lay_out(turns, turns_without_memory or ())
    surprises = [mean_surprise(turn) for turn in turns]
    lanes = _LANE_PIXELS * len(layout.speakers)
    panels: list[tuple[str | None, int, Sequence[Turn] | None]] = [
        ("memory on" if turns_without_memory is not None else None, lanes, turns)
    ]
    lines = {"values": values_by_dimension(turns), "surprise": {"surprise": surprises}}
    if lines["values"]:
        panels.append(("values", _SURPRISE_PIXELS, None))
    if any(surprise == surprise for surprise in surprises):
        panels.append(("surprise", _SURPRISE_PIXELS, None))
    if turns_without_memory is not None:
        panels.append(("memory off", lanes, turns_without_memory))
    heights = [pixels for _, pixels, _ in panels]
    figure = make_subplots(
        len(panels),
        1,
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=40 / (sum(heights) + _REST_PIXELS),
        subplot_titles=[name or "" for name, _, _ in panels],
    )
    for row, (name, _, shown) in enumerate(panels, start=1):
        if shown is None:
            for place, (of, numbers) in enumerate(lines[name or ""].items()):
                _draw_line(figure, row, of, numbers, layout, colour=_LINE_COLOURS[place % len(_LINE_COLOURS)])
        else:
            _draw_lanes(figure, row, shown, layout, with_legend=row == 1)
    title = turns[0]["conversation_id"] if title is None else title
    figure.update_layout(
        title=escape(str(title or "")),
        barmode="overlay",
        bargap=0,
        plot_bgcolor="white",
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    figure.update_xaxes(showline=True, linecolor="#999", range=layout.limits)
    slider = {"visible": True, "thickness": 0.06, "range": layout.limits}
    figure.update_xaxes(title=layout.unit, rangeslider=slider, row=len(panels), col=1)
    # It fills the window, and is higher than that where there are many speakers.
    height = f"max(96vh, {sum(heights) + _REST_PIXELS}px)"
    figure.write_html(path, include_plotlyjs=include_plotlyjs, full_html=True, default_height=height)
    return path


def _draw_lanes(figure, row: int, turns: Sequence[Turn], layout: Layout, *, with_legend: bool) -> None:
    """Draw a bar for each turn in its speaker's lane, as high as its probability; one trace per label."""
    draw = partial(_draw_bars, figure, row, layout)
    outline = {"color": "#f6f6f6", "line": {"color": "#ccc", "width": 0.5}}
    every, heights = range(len(turns)), [BAR_HEIGHT] * len(turns)
    draw("full height: probability 1", every, heights, marker=outline, hoverinfo="skip", showlegend=with_legend)
    for label, style in layout.styles.items():
        picked = [index for index in every if turns[index]["label"] == label]
        draw(
            label,
            picked,
            [BAR_HEIGHT * (turns[index]["score"] or 0) for index in picked],
            marker={
                "color": style["facecolor"],
                "line": {"color": "#404040", "width": 0.5},
                "pattern": {"shape": _PATTERNS[style["hatch"]]},
            },
            hovertext=[_hover_text(turns[index]) for index in picked],
            hoverinfo="text",
            showlegend=with_legend,
        )
    # Above all bars, so that a label can also be read on a low one.
    draw(
        "labels",
        every,
        heights,
        showlegend=False,
        marker={"color": "rgba(0, 0, 0, 0)"},
        text=[escape(turn["label"] or "") for turn in turns],
        textposition="inside",
        insidetextanchor="start",
        textfont={"color": "black"},
        textangle=0,
        hoverinfo="skip",
    )
    count = len(layout.speakers)
    names = [escape(str(name)) if name is not None else "(unknown)" for name in layout.speakers]
    places = [count - 1 - place + BAR_HEIGHT / 2 for place in range(count)]
    figure.update_yaxes(tickvals=places, ticktext=names, range=(-0.1, count), showgrid=False, row=row, col=1)


def _draw_bars(
    figure, row: int, layout: Layout, name: str, picked: Sequence[int], heights: Sequence[float], **look
) -> None:
    """Draw the bars of the picked turns as one trace."""
    import plotly.graph_objects as go

    middles = [(layout.starts[index] + layout.ends[index]) / 2 for index in picked]
    # Labels without turns get a bar at None, so that they appear in the legend.
    places, tops = (middles, list(heights)) if picked else ([None], [None])
    bar = go.Bar(
        x=places,
        y=tops,
        base=[layout.bases[index] for index in picked],
        width=[layout.widths[index] for index in picked],
        name=escape(name),
        legendgroup=name,
        **look,
    )
    figure.add_trace(bar, row=row, col=1)


def _draw_line(figure, row: int, name: str, numbers: Sequence[float], layout: Layout, *, colour: str) -> None:
    import plotly.graph_objects as go

    points = sorted(zip(((a + b) / 2 for a, b in zip(layout.starts, layout.ends)), numbers))
    line = go.Scatter(
        x=[x for x, _ in points],
        y=[None if y != y else y for _, y in points],
        mode="lines+markers",
        line={"color": colour, "width": 1},
        marker={"size": 4},
        showlegend=False,
        hovertemplate=f"{escape(name)} %{{y:.3f}}<extra></extra>",
    )
    figure.add_trace(line, row=row, col=1)
    figure.update_yaxes(gridcolor="#e5e5e5", nticks=4, row=row, col=1)


def _hover_text(turn: Turn) -> str:
    """The details of a turn, one per line."""
    ranked = sorted(turn["scores"].items(), key=lambda pair: -pair[1])
    times = "" if turn.get("start") is None else f", {turn['start']:.2f} to {turn['end']:.2f} s"
    gold = [f"gold: {escape(turn['emotion'])}"] if is_missed(turn) else []
    surprise = mean_surprise(turn)
    return "<br>".join(
        [
            f"turn {turn['turn_index']}, {escape(str(turn.get('speaker')))}{times}",
            *(f"{escape(label)} {score:.1%}" for label, score in ranked),
            *(f"{escape(name)} {value:.2f}" for name, value in (turn.get("values") or {}).items()),
            *gold,
            *([f"surprise {surprise:.3f}"] if surprise == surprise else []),
        ]
    )
