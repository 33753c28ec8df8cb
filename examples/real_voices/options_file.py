"""The options that an output folder was made with, so that no other run continues in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from voices import Voices, checksum

from titans_mal.saved_options import differing_options


def check_options(file: Path, options: Mapping[str, object]) -> None:
    """Record the options of a run in its folder, or check that the folder was made with the same.

    Args:
        file: in the folder of the run.
        options: paths and lists of paths are compared as absolute ones.

    Raises:
        ValueError: naming those that differ, or for a folder with results and no record.
    """
    now = {name: _as_json(value) for name, value in options.items()}
    if not file.exists():
        if file.parent.is_dir() and any(file.parent.iterdir()):
            raise ValueError(f"{file.parent} is not empty, and no options are recorded in it: give another --output.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=2) + "\n")
    then = json.loads(file.read_text())
    if differing := differing_options(then, now):
        raise ValueError(
            f"{file.parent} holds a run with other options ({'; '.join(differing.values())}): give another --output."
        )


def fingerprints(*voices: Voices, sequences: Sequence[Path]) -> dict[str, object]:
    """Options that change with the contents of corpora and of tables of sequences."""
    return {
        "data": [of.fingerprint for of in voices],
        "contents of sequences": [checksum(path.read_bytes()) for path in sequences],
    }


def _as_json(value: object) -> object:
    if isinstance(value, Path):
        return str(value.resolve())
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
