"""What commands share: where they print, and errors and warnings in one line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import typer
from rich.console import Console


console = Console()
errors = Console(stderr=True)


def warn(message) -> None:
    errors.print(f"Warning: {message}", style="yellow", markup=False, soft_wrap=True)


@contextlib.contextmanager
def errors_in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Print an error of these kinds, a ValueError or an OSError, and exit with 1; warnings take one line as well.

    Warnings of other libraries, which are for programmers, are left as they are.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *rest: (
            warn(message) if category is UserWarning else show(message, category, *rest)
        )
        try:
            yield
        except (ValueError, OSError, *kinds) as error:
            errors.print(f"Error: {error}", style="red", soft_wrap=True, markup=False)
            raise typer.Exit(1) from error
