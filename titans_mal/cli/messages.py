"""What commands share: where they print, and errors and warnings in one line."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator

import typer
from rich.console import Console

from ..extras import MissingExtraError


console = Console()
errors = Console(stderr=True)


def warn(message) -> None:
    errors.print(f"Warning: {message}", style="yellow", markup=False, soft_wrap=True)


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where the Hub refuses or does not answer; its HTTP client depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    clients = [importlib.import_module(name) for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    return HfHubHTTPError, *(client.HTTPError for client in clients)


@contextlib.contextmanager
def errors_in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Print a ValueError, an OSError, a missing extra or one of these kinds, and exit with 1; warnings take one line.

    Warnings of other libraries, which are for programmers, are left as they are.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *rest: (
            warn(message) if category is UserWarning else show(message, category, *rest)
        )
        try:
            yield
        except (ValueError, OSError, MissingExtraError, *kinds) as error:
            errors.print(f"Error: {' '.join(str(error).split())}", style="red", soft_wrap=True, markup=False)
            raise typer.Exit(1) from error
