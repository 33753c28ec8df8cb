"""Optional packages: each belongs to an extra, and a missing one raises an error with the install command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class MissingExtraError(ImportError):
    """An optional package is not installed."""


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Import the packages of an extra within this context.

    Args:
        name: name of the extra, as in `pip install 'titans_mal[NAME]'`.
        what: the feature that needs it, as the beginning of a sentence.

    Raises:
        MissingExtraError: if a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise MissingExtraError(f"{what} needs {package}: pip install 'titans_mal[{name}]'") from error
