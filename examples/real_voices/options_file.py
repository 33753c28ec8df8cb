"""The options that an output folder was made with, so that no other run continues in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def check_options(file: Path, options: Mapping[str, object]) -> None:
    """Record the options of a run in its folder, or check that the folder was made with the same.

    Raises:
        ValueError: naming those that differ.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(options, indent=2) + "\n")
    before = json.loads(file.read_text())
    pairs = {name: (before.get(name), value) for name, value in options.items()}
    differing = [f"{name}: {then} then, {now} now" for name, (then, now) in pairs.items() if then != now]
    if differing:
        raise ValueError(
            f"{file.parent} holds a run with other options ({'; '.join(differing)}): give another --output."
        )
