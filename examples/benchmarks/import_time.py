"""The time that `import titans_mal` adds to `import transformers`, in separate, alternating processes.

python examples/benchmarks/import_time.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from measuring import RESULTS, alternate, medians, print_table, save


IMPORTS = {
    "transformers": "import transformers",
    "transformers, titans_mal": "import transformers, titans_mal",
    "torch, transformers' models": "import torch; from transformers import Qwen2AudioForConditionalGeneration",
    "the same, and a name of titans_mal": "import torch; from transformers import Qwen2AudioForConditionalGeneration;"
    "from titans_mal import AutoModelForAudioEmotion",
}


def main(
    repeats: Annotated[int, typer.Option(help="Number of rounds.")] = 7,
    output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = RESULTS,
) -> None:
    """Time four imports, and print a table."""
    arms = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)
        for name, code in IMPORTS.items()
    }
    middle = medians(alternate(arms, repeats=repeats))
    rows = [{"import": name, "ms": seconds * 1e3} for name, seconds in middle.items()]
    print_table(rows)
    print(f"import titans_mal adds {rows[1]['ms'] - rows[0]['ms']:.0f} ms to import transformers")
    save("import_time", rows, output)


if __name__ == "__main__":
    typer.run(main)
