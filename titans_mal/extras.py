"""Packages that not everybody needs, an extra each: where one is missing, one sentence says how to get it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class MissingExtraError(ImportError):
    """A package is not installed that only some need."""


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """For the imports of what an extra brings.

    Args:
        name: of the extra, as in `pip install 'titans_mal[NAME]'`.
        what: needs it, as the beginning of a sentence.

    Raises:
        MissingExtraError: if a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise MissingExtraError(f"{what} needs {package}: pip install 'titans_mal[{name}]'") from error
