"""The JSON schema of reports, and its check."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any


SCHEMA = json.loads((Path(__file__).parent / "report.schema.json").read_text(encoding="utf-8"))


def check_schema(content: Any) -> None:
    """Check a report: fully if jsonschema is installed, otherwise only its required fields.

    Raises:
        ValueError: naming what is wrong.
    """
    missing = [name for name in SCHEMA["required"] if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"Not an evaluation report: $: {missing[0]!r} is a required property")
    if find_spec("jsonschema") is None:
        return
    import jsonschema

    try:
        jsonschema.validate(content, SCHEMA)
    except jsonschema.ValidationError as error:
        raise ValueError(f"Not an evaluation report: {error.json_path}: {error.message}") from error
