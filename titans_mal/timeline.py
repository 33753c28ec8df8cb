"""The timeline of a conversation as a file: a picture, or a page to point at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .timeline_figure import BAR_HEIGHT as BAR_HEIGHT
from .timeline_figure import Turn, draw_figure
from .timeline_figure import timeline_figure as _timeline_figure  # noqa: F401, as it was called here


FORMATS = (".png", ".svg", ".pdf", ".html")


def draw_timeline(
    turns: Sequence[Turn],
    path: str | Path,
    *,
    turns_without_memory: Sequence[Turn] | None = None,
    title: str | None = None,
) -> Path:
    """Draw the turns of one conversation on a time axis and write the picture to `path`.

    Each speaker has a lane and each turn a bar in it: from start to end, in the colour of its label, as high as the
    label's probability. A strip below a bar shows the gold label where it is another one. Panels under the lanes show
    the values of the dimensions, a line each, and the surprise of the memory. A label's colour follows from its place
    among all labels of `scores`, sorted, so pictures of one label set agree.

    Args:
        turns: one mapping per turn, in order: conversation_id, turn_index, label, score (0 to 1) and scores (label to
            probability); speaker, start and end (seconds), surprise (a number, or one per memory layer, which are
            averaged), values (dimension to number) and emotion (the gold label) may be None or missing, and label and
            score None where a model reads no labels. If any turn lacks a time, all are laid out
            one unit each by turn_index. Other keys are ignored.
        path: where to write; the suffix picks the format. HTML is one file that needs no network, to zoom into and to
            point at; it needs Plotly.
        turns_without_memory: the same turns as labelled without the memory, for a second panel of lanes; speakers and
            times are those of `turns`.
        title: the line above the picture; by default the conversation_id.

    Returns:
        The path written.

    Raises:
        ValueError: no turns, more than one conversation, a score outside 0 to 1, a turn that ends before it starts,
            another number of turns without memory, or a suffix other than .png, .svg, .pdf and .html.
        OSError: the file cannot be written.
    """
    path = check_format(path)
    if path.suffix.lower() == ".html":
        from .timeline_html import write_timeline_html

        return write_timeline_html(turns, path, turns_without_memory=turns_without_memory, title=title)
    return draw_figure(turns, path, turns_without_memory=turns_without_memory, title=title)


def check_format(path: str | Path) -> Path:
    """The path, if a timeline can be drawn to it.

    Raises:
        ValueError: for a suffix other than .png, .svg, .pdf and .html.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw to {path.name!r}: the suffix must be one of {', '.join(FORMATS)}")
    return path
