"""`titans-mal data check`: statistics of a corpus, and its problems."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from ..safe_text import encodable, printable
from .messages import console, errors_in_one_line
from .options import (
    DataDir,
    EmoBox,
    Fold,
    LabelSet,
    SplitBy,
    SplitLonger,
    SplitSeed,
    TestShare,
    ValidationShare,
    as_label_set,
)


app = typer.Typer(no_args_is_help=True, help="Inspect conversations.")


@app.callback()
def main() -> None:
    """Inspect conversations."""


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A corpus, a folder with metadata.csv, or a Hub dataset.")],
    data_dir: DataDir = None,
    label_set: LabelSet = None,
    fold: Fold = None,
    emobox: EmoBox = None,
    split_longer_than: SplitLonger = None,
    split_by: SplitBy = None,
    test_share: TestShare = None,
    validation_share: ValidationShare = None,
    split_seed: SplitSeed = 0,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every audio file, instead of reading only its header.")
    ] = False,
    num_proc: Annotated[int | None, typer.Option(help="Number of processes that check the files.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write counts and all problems to this file.")
    ] = None,
    most: Annotated[int, typer.Option(min=0, help="Maximal number of problems that are printed of each kind.")] = 20,
) -> None:
    """Count turns, speakers, hours, labels and histories, and list the problems of a corpus."""
    from ..data.conversations import load_conversations
    from ..data.overview import list_problems, overview
    from ..data.problems import UnusableTurns
    from ..data.table import Conversations

    with errors_in_one_line(), warnings.catch_warnings():
        # Problems are listed below.
        warnings.filterwarnings("ignore", ".*turns that cannot be used", UserWarning)
        try:
            conversations = load_conversations(
                name,
                data_dir=data_dir,
                label_set=as_label_set(label_set),
                fold=fold,
                emobox=emobox,
                split_longer_than=split_longer_than,
                split_by=split_by,
                test_share=test_share,
                validation_share=validation_share,
                split_seed=split_seed,
                decode=decode,
                num_proc=num_proc,
            )
            problems, failure = conversations.problems, None
        except UnusableTurns as error:
            conversations, problems, failure = Conversations({}), error.problems, error
        counts = overview(conversations, problems)
        if json_out is not None:
            listed = {**counts, "listed": [vars(problem) for problem in problems]}
            json_out.write_text(encodable(json.dumps(listed, indent=2, ensure_ascii=False)) + "\n", encoding="utf-8")
        if conversations:
            console.print(_table(counts["splits"]))
        for line in list_problems(problems, most=most) or ["No problems."]:
            console.print(line, soft_wrap=True)
        if failure is not None:
            raise failure


def _table(splits: dict[str, dict]) -> Table:
    """One column per split: plain counts, then labels, then scored turns by history."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    for name in ("conversations", "turns", "scored", "speakers", "speaker_names"):
        table.add_row(name.replace("_", " "), *(str(counts[name]) for counts in splits.values()))
    table.add_row("hours", *(f"{counts['hours']:.2f}" for counts in splits.values()), end_section=True)
    for kind, title in (("labels", "{}"), ("history", "{} earlier turns of the speaker")):
        names = next(iter(splits.values()))[kind]
        for position, name in enumerate(names):
            last = position == len(names) - 1
            cells = (str(counts[kind][name]) for counts in splits.values())
            table.add_row(printable(title.format(name)), *cells, end_section=last)
    return table
