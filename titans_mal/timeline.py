"""Draw the timeline of a conversation to a file: an image, or an interactive HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .timeline_figure import BAR_HEIGHT as BAR_HEIGHT
from .timeline_figure import Turn, draw_figure
from .timeline_figure import timeline_figure as _timeline_figure  # noqa: F401, its former name here


FORMATS = (".png", ".svg", ".pdf", ".html")
PLOTLY_SOURCES = ("directory", "cdn")


def draw_timeline(
    turns: Sequence[Turn],
    path: str | Path,
    *,
    turns_without_memory: Sequence[Turn] | None = None,
    title: str | None = None,
    include_plotlyjs: bool | str = True,
) -> Path:
    """Draw the turns of one conversation on a time axis and write the picture to `path`.

    Each speaker has a lane and each turn a bar in it, from start to end, in the colour of its label and as high as the
    label's probability. A strip below the bar shows the gold label if it differs. Panels below the lanes show the
    values of the dimensions, one line each, and the surprise of the memory. A label has the colour expected of its
    emotion (red anger, blue sadness, yellow joy, grey neutral); other labels get the remaining colours in the sorted
    order of all labels of `scores`, so pictures with the same label set agree.

    Args:
        turns: one mapping per turn, in order, with conversation_id, turn_index, label, score (0 to 1) and scores
            (label to probability). speaker, start and end (seconds), surprise (a number, or one per memory layer,
            which are averaged), values (dimension to number) and emotion (the gold label) may be None or missing;
            label and score are None if the model predicts no labels. If any turn lacks a time, all turns are drawn one
            unit wide by turn_index. Other keys are ignored.
        path: where to write; the suffix selects the format. HTML has zoom and tooltips, and needs Plotly.
        turns_without_memory: the same turns scored without memory, for a second panel of lanes; their speakers and
            times are taken from `turns`.
        title: the line above the picture; by default the conversation_id.
        include_plotlyjs: where an HTML page gets Plotly's script from. True: it is in the page, which is then
            self-contained and 5 MB large; "directory": in `plotly.min.js` beside the page, which is written and can be
            shared by several pages; "cdn": from the network when the page is opened.

    Returns:
        The path written.

    Raises:
        ValueError: for no turns, more than one conversation, a score outside 0 to 1, a turn that ends before it
            starts, a different number of turns without memory, another `include_plotlyjs`, or a suffix other than
            .png, .svg, .pdf and .html.
        OSError: if the file cannot be written.
    """
    path = check_format(path)
    if include_plotlyjs not in (True, *PLOTLY_SOURCES):
        raise ValueError(f"include_plotlyjs must be True, 'directory' or 'cdn', got {include_plotlyjs!r}.")
    if path.suffix.lower() == ".html":
        from .timeline_html import write_timeline_html

        return write_timeline_html(
            turns, path, turns_without_memory=turns_without_memory, title=title, include_plotlyjs=include_plotlyjs
        )
    return draw_figure(turns, path, turns_without_memory=turns_without_memory, title=title)


def check_format(path: str | Path) -> Path:
    """The path, after checking that its suffix is a format of timelines.

    Raises:
        ValueError: for a suffix other than .png, .svg, .pdf and .html.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw to {path.name!r}: the suffix must be one of {', '.join(FORMATS)}")
    return path
