"""The outputs of `titans-mal analyze`: a table, files, and timelines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ..export import FORMATS, check_package, describe_turn, export_turns
from ..extras import extra
from ..safe_text import printable
from .messages import console, warn


# Fields of a result that depend on the memory.
_SCORED = ("label", "score", "scores")


def _complete(results: list[dict], turns: list[dict], alone: list[dict] | None) -> list[dict]:
    """Results with emotion and transcript from the input table, and with the results without memory."""
    complete = []
    for index, (result, turn) in enumerate(zip(results, turns)):
        of_table = {"emotion": turn.get("emotion"), "transcript": turn.get("transcript")}
        off = {} if alone is None else {"without_memory": {name: alone[index][name] for name in _SCORED}}
        complete.append({**result, **of_table, **off})
    return complete


def write_results(
    results: list[dict],
    turns: list[dict],
    alone: list[dict] | None,
    *,
    format: str,
    output: Path | None,
    json_out: Path | None,
) -> None:
    """Print the results or write them to `output`, and to `json_out` as JSON."""
    complete = _complete(results, turns, alone)
    if json_out is not None:
        json_out.write_text(export_turns(complete, "json"), encoding="utf-8")
    if format != "table":
        _write(export_turns(complete, format), output)
        return
    gold = [turn.get("emotion") for turn in turns]
    console.print(turn_table(results, gold=gold if any(gold) else None, without_memory=alone))
    _print_accuracy(results, gold)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def turn_table(
    results: list[dict], *, gold: list[str | None] | None = None, without_memory: list[dict] | None = None
) -> Table:
    """A rich table of the pipeline's results, one row per turn.

    Args:
        results: as returned by `AudioEmotionPipeline`.
        gold: the true labels (None where unknown), shown in an extra column.
        without_memory: results with memory off, shown in an extra column.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    several = len({turn["conversation_id"] for turn in results}) > 1
    names = [*(["conversation"] if several else []), "turn", "time", "speaker", *(["true"] if gold else [])]
    for name in (*names, "emotion", "surprise"):
        table.add_column(name, no_wrap=True)
    if without_memory:
        table.add_column("memory off", no_wrap=True)
    for index, turn in enumerate(results):
        time = "" if turn["start"] is None else f"{turn['start']:.1f}-{turn['end']:.1f} s"
        surprise = "" if turn["surprise"] is None else f"{turn['surprise']:.2f}"
        cells = [turn["conversation_id"]] if several else []
        cells += [str(turn["turn_index"]), time, turn["speaker"] or ""]
        cells += [gold[index] or ""] if gold else []
        cells += [describe_turn(turn), surprise]
        cells += [describe_turn(without_memory[index])] if without_memory else []
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _print_accuracy(results: list[dict], gold: list[str | None]) -> None:
    """Print the accuracy over turns whose gold label the model knows, if there are any."""
    scored = [(turn, label) for turn, label in zip(results, gold) if label in turn["scores"]]
    if scored:
        right = sum(turn["label"] == label for turn, label in scored)
        console.print(f"{right} of {len(scored)} labelled turns correct ({right / len(scored):.0%})")
    unknown = sorted({label for label in gold if label} - {label for _, label in scored})
    if unknown:
        warn(f"turns with labels unknown to the model are not counted: {', '.join(unknown)}")


def check_outputs(
    json_out: Path | None, timeline: Path | None, output: Path | None, *, format: str, plotly_source: str
) -> None:
    """Check that all outputs can be written, before the turns are scored."""
    if format not in ("table", *FORMATS):
        raise ValueError(f"--format must be one of table, {', '.join(FORMATS)}, got {format!r}.")
    if output is not None and format == "table":
        raise ValueError("--output needs a --format other than table.")
    is_page = timeline is not None and timeline.suffix.lower() == ".html"
    if plotly_source not in (("embedded", "directory", "cdn") if is_page else ("embedded",)):
        raise ValueError(
            f"--plotly must be embedded, directory or cdn, with a --timeline in .html, got {plotly_source!r}."
        )
    for path in filter(None, (json_out, timeline, output)):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.name} cannot be written: the folder {path.parent} does not exist.")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder: give the path of a file.")
    if timeline is not None:
        from ..timeline import check_format

        check_format(timeline)
        if is_page:
            with extra("html", "A timeline in HTML"):
                import plotly  # noqa: F401
    check_package(format)


def draw_timelines(results: list[dict], alone: list[dict] | None, path: Path, plotly_source: str) -> Iterator[Path]:
    """Draw one picture per conversation; with several, the file name includes the conversation's id."""
    from ..timeline import draw_timeline

    conversations: dict[str | None, list[int]] = {}
    taken: set[str] = set()
    for index, turn in enumerate(results):
        conversations.setdefault(turn["conversation_id"], []).append(index)
    for name, indices in conversations.items():
        turns = [results[index] for index in indices]
        without = None if alone is None else [alone[index] for index in indices]
        # Short enough for a file system, and different even where names are not.
        begin = file_name = re.sub(r"[^\w.-]+", "_", str(name))[:60]
        for number in count(2):
            if file_name not in taken:
                break
            file_name = f"{begin}_{number}"
        taken.add(file_name)
        target = path if len(conversations) == 1 else path.with_stem(f"{path.stem}_{file_name}")
        source: bool | str = True if plotly_source == "embedded" else plotly_source
        yield draw_timeline(turns, target, turns_without_memory=without, include_plotlyjs=source)
