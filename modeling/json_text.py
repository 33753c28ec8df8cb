"""Parsing of untrusted JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


# Levels of objects and lists; no file that is read here has ten.
MAX_DEPTH = 64


def parse_json(text: str | bytes, name: str = "The text", kind: type = object) -> Any:
    """Parse a JSON text.

    Args:
        text: the JSON.
        name: name of the text in error messages.
        kind: the required type, `dict` or `list`; `object`: any.

    Raises:
        ValueError: for invalid JSON, another type, or more than `MAX_DEPTH` levels, which would exhaust the stack of
            code that walks through it.
    """
    too_deep = f"{name} is JSON that is nested too deeply."
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level if isinstance(outer, dict | list) for inner in _inner(outer)]
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(too_deep)
    if not isinstance(content, kind):
        wanted = "a JSON object" if kind is dict else "a JSON list"
        raise ValueError(f"{name} must hold {wanted}, got {type(content).__name__}.")
    return content


def read_json(path: str | Path, kind: type = object) -> Any:
    """Parse a JSON file in UTF-8.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `parse_json`, naming the file.
    """
    return parse_json(Path(path).read_bytes(), str(path), kind)


def _inner(outer: dict | list):
    return outer.values() if isinstance(outer, dict) else outer
