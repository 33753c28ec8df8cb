"""Scores of a run on disk, from which a stopped run is resumed with any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import PartialState

from ..modeling.atomic_files import replace_text
from ..modeling.json_text import read_json
from ..saved_options import differing_options


class StoredScores:
    """A folder with `run.json` and a file for each scored group, each written atomically.

    Args:
        folder: the folder of one run.
        run: description of the run; a folder of another run is rejected.
        state: state of the processes, all of which create a `StoredScores` together.

    Attributes:
        done: numbers of finished groups; groups with unusable turns are scored again.

    Raises:
        ValueError: if the folder holds another run, naming what differs, or an unreadable file.
    """

    def __init__(self, folder: Path, run: dict, state: PartialState):
        self._folder = folder
        path = folder / "run.json"
        if state.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write(path, run)
        state.wait_for_everyone()
        differing = differing_options(*map(_identity, (_read(path), json.loads(json.dumps(run)))))
        if differing:
            raise ValueError(
                f"{folder.parent} holds a run with a different {' and '.join(differing)}: choose another folder, "
                f"or remove {folder}."
            )
        self.done = {group["group"] for group in self.read() if not group["not_scored"]}
        # No process writes before all have read, so that all see the same unfinished groups.
        state.wait_for_everyone()

    def write(self, group: dict) -> None:
        """Store the scores of a group.

        Raises:
            ValueError: for a number that is not finite.
        """
        _write(self._folder / f"group-{group['group']:06d}.json", group)

    def read(self) -> list[dict]:
        """The scores of each group, in order."""
        return [_read(path) for path in sorted(self._folder.glob("group-*.json"))]


def _identity(run: dict) -> dict:
    """A run without the name of its model, such as a folder, which may be given in different ways."""
    model = run.get("model")
    return {**run, "model": {**model, "name": None}} if isinstance(model, dict) else run


def _write(path: Path, content: dict) -> None:
    replace_text(path, json.dumps(content, allow_nan=False))


def _read(path: Path) -> dict:
    try:
        return read_json(path, dict)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it.") from error
