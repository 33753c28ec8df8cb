"""Run mypy on the packages as they are installed: all of them inside of `titans_mal/`.

Settings are those of `pyproject.toml`. Modules of `OPEN` are not clean yet, and their errors are only counted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".mypy_cache"
OPEN = frozenset(
    {
    }
)
# What a user may write wrong, and a type checker must see.
WRONG = "from titans_mal import NoSuchThing\n"
_ERROR = re.compile(r"[^:]+:\d+: error: ")


def errors_of(*arguments: str, folder: Path) -> list[str]:
    """The lines of mypy's errors in a folder."""
    command = [sys.executable, "-m", "mypy", "--strict-optional", "--cache-dir", str(CACHE), *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode not in (0, 1):
        raise RuntimeError(f"mypy failed: {run.stdout}{run.stderr}")
    return [line for line in run.stdout.splitlines() if _ERROR.match(line)]


def lay_out(folder: Path) -> None:
    """The packages of setup.cfg in a folder, as an installation has them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "titans_mal", folder / "titans_mal")
    for path in ("modeling", "hub_cards", "examples/quickstart"):
        shutil.copytree(ROOT / path, folder / "titans_mal" / Path(path).name)
    shutil.copy2(ROOT / "pyproject.toml", folder)
    (folder / "wrong.py").write_text(WRONG)


def main() -> int:
    """Print the errors of clean modules; 1 where there are any, or where mypy does not see a wrong import."""
    folder = CACHE / "layout"
    lay_out(folder)
    lines = errors_of("titans_mal", "wrong.py", folder=folder)
    files = [line.partition(":")[0] for line in lines]
    broken = [line for line, file in zip(lines, files) if file not in OPEN | {"wrong.py"}]
    is_seen = any("NoSuchThing" in line for line in lines)
    print(*broken, *([] if is_seen else ["mypy does not see that titans_mal has no NoSuchThing"]), sep="\n")
    print(
        f"mypy: {len(broken)} errors in clean modules, {sum(file in OPEN for file in files)} in {len(OPEN)} open ones"
    )
    return int(bool(broken) or not is_seen)


if __name__ == "__main__":
    sys.exit(main())
