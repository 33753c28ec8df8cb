"""Build the site of the documentation; warnings are errors.

python examples/documentation/build.py [FOLDER]
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def lay_out(folder: Path) -> None:
    """Copy the packages into a folder as `setup.cfg` installs them, where the reference is read from."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    for line in setup["options"]["package_dir"].split("\n"):
        name, _, source = (part.strip() for part in line.partition("="))
        if name:
            ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.wav")
            shutil.copytree(ROOT / source, folder / name.replace(".", "/"), ignore=ignored)


def main(output: str | Path = HERE / "site") -> None:
    """Build the site into a folder, which is emptied before."""
    with tempfile.TemporaryDirectory() as sources:
        lay_out(Path(sources))
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(Path(output).resolve())]
        # Run here, so that the packages in the clone's root are not found before the copies.
        environment = {**os.environ, "PYTHONPATH": sources, "NO_MKDOCS_2_WARNING": "1"}
        subprocess.run(command, cwd=HERE, env=environment, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
