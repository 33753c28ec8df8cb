"""The command `titans-mal`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


# In a clone; an installed package has no model of its own.
TINY_CHECKPOINT = Path(__file__).resolve().parent.parent / "examples" / "quickstart" / "tiny-qwen2-audio-mal"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()
errors = Console(stderr=True)


@app.callback()
def main() -> None:
    """Emotions in conversations, heard by an audio language model with memory."""


@app.command()
def analyze(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="A folder with metadata.csv, or sound files in order.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_REPO",
            help="A model with memory. Default: in a clone, the tiny checkpoint of the quickstart.",
        ),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the turns as JSON to this file.")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Draw the timeline to this file (.png, .svg, .pdf).")] = None,
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Hear every turn alone.")] = False,
) -> None:
    """Print the emotion of each turn, and write JSON and a timeline where wanted."""
    try:
        _check_outputs(json_out, timeline)
        turns = list(_turns(inputs))
        results = _analyze(turns, model or _tiny_checkpoint(), memory=not no_memory)
        if json_out is not None:
            json_out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(turn_table(results))
        for path in _draw(results, timeline) if timeline is not None else ():
            console.print(f"Timeline: {path}", soft_wrap=True)
    except (ValueError, OSError) as error:
        errors.print(f"Error: {error}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error


def turn_table(
    results: list[dict], *, gold: list[str] | None = None, without_memory: list[dict] | None = None
) -> Table:
    """A rich table of the pipeline's results, one row a turn.

    Args:
        results: what `AudioEmotionPipeline` returned.
        gold: the true labels, for a column of their own.
        without_memory: results with memory off, for columns beside.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("turn", "time", "speaker", *(["true"] if gold else []), "emotion", "surprise"):
        table.add_column(name, no_wrap=True)
    if without_memory:
        table.add_column("memory off", no_wrap=True)
    for index, turn in enumerate(results):
        time = "" if turn["start"] is None else f"{turn['start']:.1f}-{turn['end']:.1f} s"
        surprise = "" if turn["surprise"] is None else f"{turn['surprise']:.2f}"
        cells = [str(turn["turn_index"]), time, turn["speaker"] or ""]
        cells += [gold[index]] if gold else []
        cells += [_emotion(turn), surprise]
        cells += [_emotion(without_memory[index])] if without_memory else []
        table.add_row(*cells)
    return table


def _emotion(turn: dict) -> str:
    return f"{turn['label']} {turn['score']:.0%}"


def _check_outputs(json_out: Path | None, timeline: Path | None) -> None:
    """Raise what writing would raise, before the work and not after it."""
    for path in filter(None, (json_out, timeline)):
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} is no folder, so {path.name} cannot be written there.")
    if timeline is not None:
        from .timeline import check_format

        check_format(timeline)


def _tiny_checkpoint() -> str:
    if not TINY_CHECKPOINT.is_dir():
        raise ValueError("Give --model: a folder or Hub repo of a model with memory.")
    errors.print("No --model given: the tiny checkpoint listens, which knows made-up voices only.", style="yellow")
    return str(TINY_CHECKPOINT)


def _turns(inputs: list[Path]) -> Iterator[dict]:
    """The turns of a folder's table, or one a sound file."""
    if len(inputs) == 1 and inputs[0].is_dir():
        from .data.conversations import load_conversations

        for split in load_conversations(inputs[0]).values():
            for row in split:
                fields = ("conversation_id", "turn_index", "speaker", "audio", "start", "end")
                yield {"file": row["audio"]["path"], **{name: row[name] for name in fields}}
        return
    for index, path in enumerate(inputs):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is no sound file; give a folder with metadata.csv, or sound files in order."
            )
        yield {"file": str(path), "audio": str(path), "turn_index": index}


def _analyze(turns: list[dict], model_name: str, *, memory: bool) -> list[dict]:
    """Stream each conversation through the pipeline, turn by turn."""
    from transformers import AutoProcessor

    from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion, ConversationMemoryCache

    model = AutoModelForAudioEmotion.from_pretrained(model_name)
    pipe = AudioEmotionPipeline(model=model, processor=AutoProcessor.from_pretrained(model_name))
    caches: dict[str | None, ConversationMemoryCache] = {}
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        for turn in bar.track(turns, description="turns"):
            cache = caches.setdefault(turn.get("conversation_id"), ConversationMemoryCache(model.config))
            results.append(pipe(turn, memory_cache=cache, memory=memory))
    return results


def _draw(results: list[dict], path: Path) -> Iterator[Path]:
    """One picture a conversation; with several, each one's id stands in its file's name."""
    from .timeline import draw_timeline

    conversations: dict[str | None, list[dict]] = {}
    for turn in results:
        conversations.setdefault(turn["conversation_id"], []).append(turn)
    for name, turns in conversations.items():
        target = path if len(conversations) == 1 else path.with_stem(f"{path.stem}_{name}")
        yield draw_timeline(turns, target)


if __name__ == "__main__":
    app()
