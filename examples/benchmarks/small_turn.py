"""One streamed turn of the shipped checkpoint: the host alone, a turn that only reads, and one that writes too.

    python examples/benchmarks/small_turn.py
    python examples/benchmarks/small_turn.py --against 6722468

With `--against`, a commit of this repository is unpacked beside it, and both are timed in turn by processes that wait
for each other. Also counted: files and functions of `titans_mal` and `modeling` that a turn goes through, and torch's
operations.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.utils._python_dispatch import TorchDispatchMode


ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "examples" / "quickstart" / "tiny-qwen2-audio-mal"
CONVERSATION = ROOT / "examples" / "quickstart" / "conversation"
ARMS = ("host", "reading only", "memory")


def make_arms() -> dict[str, Callable[[], object]]:
    """The timed call: the fourth turn of the included conversation, after three turns that were written."""
    from transformers import AutoProcessor

    from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache, load_conversations

    model, processor = (
        AutoModelForAudioEmotion.from_pretrained(CHECKPOINT).eval(),
        AutoProcessor.from_pretrained(CHECKPOINT),
    )
    table = load_conversations(str(CONVERSATION))["test"]
    turns = [model.prepare_turn(processor, table[index]["audio"]) for index in range(4)]
    cache = ConversationMemoryCache(model.config)
    with torch.inference_mode():
        for turn in turns[:3]:
            model(**turn, memory_cache=cache)

    def run(name: str) -> None:
        with torch.inference_mode(), model.disable_memory() if name == "host" else contextlib.nullcontext():
            given = {} if name == "host" else {"memory_cache": cache, "update_memory": name == "memory"}
            model(**turns[3], **given)

    return {name: lambda name=name: run(name) for name in ARMS}


def count_calls(run: Callable[[], object], root: Path = ROOT) -> Counter:
    """How often functions of each file of `titans_mal` and `modeling` are called."""
    calls, folders = Counter(), tuple(str(root / name) for name in ("titans_mal", "modeling"))

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(folders):
            calls[Path(frame.f_code.co_filename).name] += 1

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


class _Operations(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> int:
    """How many operations of torch a call makes."""
    with _Operations() as operations:
        run()
    return operations.count


def serve(root: str) -> None:
    """Time one round for each line of the input: milliseconds of each arm, in turn, of this thread alone."""
    sys.path.insert(0, root)
    torch.set_num_threads(1)
    arms = make_arms()
    calls = count_calls(arms["memory"], Path(root))
    operations = {f"operations, {name}": count_operations(arms[name]) for name in ("host", "memory")}
    print(json.dumps({"files": len(calls), "calls": sum(calls.values()), **operations}), flush=True)
    for _ in sys.stdin:
        milliseconds = {}
        for name, run in arms.items():
            began = time.thread_time()
            run()
            milliseconds[name] = 1e3 * (time.thread_time() - began)
        print(json.dumps(milliseconds), flush=True)


@contextlib.contextmanager
def commit_at(commit: str):
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def measure(roots: dict[str, Path], rounds: int) -> list[dict]:
    """A row for each of the versions: medians of a process of its own, which take turns."""
    processes = {}
    for name, root in roots.items():
        command = [sys.executable, __file__, "--serve", str(root)]
        processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        counts = {name: json.loads(process.stdout.readline()) for name, process in processes.items()}
        seen = {name: [] for name in roots}
        for _ in range(rounds):
            for name, process in processes.items():
                process.stdin.write("\n")
                process.stdin.flush()
                seen[name].append(json.loads(process.stdout.readline()))
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return [{"version": name, **_row(seen[name][rounds // 10 :]), **counts[name]} for name in roots]


def _row(rounds: list[dict[str, float]]) -> dict[str, float]:
    medians = {f"{arm}, ms": statistics.median(times[arm] for times in rounds) for arm in ARMS}
    # Round by round, which a drifting machine does not move.
    over = {f"{arm} / host": statistics.median(times[arm] / times["host"] for times in rounds) for arm in ARMS[1:]}
    return {**medians, **over}


def main(
    against: Annotated[str, typer.Option(help="Commit to time in alternation with this version.")] = "",
    rounds: Annotated[int, typer.Option(help="Number of rounds of each arm.")] = 300,
    serve_root: Annotated[str, typer.Option("--serve", hidden=True)] = "",
) -> None:
    """Time the arms in turn, and print a table."""
    if serve_root:
        return serve(serve_root)
    from measuring import print_table

    with commit_at(against) if against else contextlib.nullcontext() as folder:
        print_table(measure({**({against: folder} if folder else {}), "this": ROOT}, rounds))


if __name__ == "__main__":
    typer.run(main)
