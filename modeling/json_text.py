"""Parsing of untrusted JSON."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, name: str = "The text") -> Any:
    """Parse a JSON text.

    Args:
        text: the JSON.
        name: of the text, in error messages.

    Raises:
        ValueError: for invalid JSON, or nesting so deep that parsing would exhaust the stack.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is JSON that is nested too deeply.") from None
