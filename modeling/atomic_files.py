"""Write files that are complete or not there, whenever the process is interrupted."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A draft that replaces a file when the block ends; an exception removes the draft and leaves the file unchanged.

    Args:
        path: the file, in an existing folder.

    Yields:
        The path to write the draft to, in the same folder; it is different for each process and thread.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.unfinished")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, as `replacing`."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
