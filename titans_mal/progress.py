"""Progress of long work with the time left: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


Item = TypeVar("Item")

# Seconds between two lines of text.
LINE_SECONDS = 10.0


def with_progress(
    items: Iterable[Item], *, total: int, description: str, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Iterate over the items, showing on standard error how many are done and the time left.

    Args:
        total: sum of the sizes of all items.
        description: what is counted, such as "turns".
        size: returns the size of an item.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _with_lines(items, total, description, size)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))


def _with_lines(items: Iterable[Item], total: int, description: str, size: Callable[[Item], int]) -> Iterator[Item]:
    console = Console(stderr=True)
    began = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        if now - last >= LINE_SECONDS and done < total:
            left = (now - began) / done * (total - done)
            console.print(f"{description}: {done} of {total}, {_clock(left)} left", highlight=False)
            last = now


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
