"""An environment of its own that has some packages, what these require, and nothing else."""

from __future__ import annotations

import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def make_environment(folder: Path, *packages: str) -> Path:
    """A fresh virtual environment, filled from the packages of this one without a network.

    Returns:
        Its Python.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for found in _closure(packages).values():
        for top in {Path(file).parts[0] for file in found.files or () if ".." not in Path(file).parts}:
            link, target = site / top, Path(found.locate_file(top))
            if not link.exists() and target.exists():
                link.symlink_to(target)
    return folder / "bin" / Path(sys.executable).name


def _closure(packages: tuple[str, ...]) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    waiting = [Requirement(package) for package in packages]
    while waiting:
        wanted = waiting.pop()
        if wanted.name.lower() in found or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            found[wanted.name.lower()] = distribution(wanted.name)
        except PackageNotFoundError:
            continue  # of another platform
        waiting += map(Requirement, found[wanted.name.lower()].requires or ())
    return found
