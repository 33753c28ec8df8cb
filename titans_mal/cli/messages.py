"""Output shared by all commands: consoles, and one-line errors and warnings."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console

from ..extras import MissingExtraError
from ..safe_text import printable


class PlainConsole(Console):
    """A console that prints text from outside as it is: no markup is read from it, and no terminal obeys it."""

    def print(self, *objects: Any, **kwargs: Any) -> None:
        super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **kwargs)


console = PlainConsole(markup=False)
errors = PlainConsole(markup=False, stderr=True)


def warn(message) -> None:
    errors.print(f"Warning: {message}", style="yellow", soft_wrap=True)


def hub_errors() -> tuple[type[Exception], ...]:
    """Exceptions of huggingface_hub for refused or failed requests; its HTTP client depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    clients = [importlib.import_module(name) for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    return HfHubHTTPError, *(client.HTTPError for client in clients)


@contextlib.contextmanager
def errors_in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Print ValueError, OSError, a missing extra or one of `kinds` on one line and exit with status 1.

    User warnings of this package also take one line; other warnings, which are meant for developers, are unchanged.
    """
    from ..modeling.turn_rules import CutTurnWarning

    expected: tuple[type[Exception], ...] = (ValueError, OSError, MissingExtraError, *kinds)
    with warnings.catch_warnings():
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *rest: (
            warn(message) if category in (UserWarning, CutTurnWarning) else show(message, category, *rest)
        )
        try:
            yield
        except expected as error:
            errors.print(f"Error: {' '.join(str(error).split())}", style="red", soft_wrap=True)
            raise typer.Exit(1) from error
