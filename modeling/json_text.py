"""JSON that comes from outside."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, name: str = "The text") -> Any:
    """What a JSON text says.

    Args:
        text: the JSON.
        name: of the text, for errors.

    Raises:
        ValueError: for what is not JSON, or nested so deeply that reading it would exhaust the stack.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is JSON that is nested too deeply.") from None
