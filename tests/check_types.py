"""Run mypy, set up in pyproject.toml, on the packages as they are installed: all of them inside `titans_mal/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".mypy_cache"
# mypy reports this comment as unused if it does not see that the import is wrong.
WRONG = "from titans_mal import NoSuchThing  # type: ignore[attr-defined]\n"


def lay_out(folder: Path) -> None:
    """Copy the packages of setup.cfg to a folder, as an installation has them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "titans_mal", folder / "titans_mal")
    for path in ("modeling", "hub_cards", "examples/quickstart"):
        shutil.copytree(ROOT / path, folder / "titans_mal" / Path(path).name)
    shutil.copy2(ROOT / "pyproject.toml", folder)
    (folder / "wrong.py").write_text(WRONG)


if __name__ == "__main__":
    lay_out(CACHE / "layout")
    command = [sys.executable, "-m", "mypy", "--strict-optional", "--cache-dir", str(CACHE), "titans_mal", "wrong.py"]
    sys.exit(subprocess.run(command, cwd=CACHE / "layout").returncode)
