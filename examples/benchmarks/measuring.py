"""How these benchmarks measure: in one process, the arms in turn, by medians; and where the results go."""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile


RESULTS = Path(__file__).parent / "results"


def alternate(arms: dict[str, Callable[[], object]], *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each arm, run in turn `repeats` times after `warmup` rounds, so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for round_number in range(warmup + repeats):
        for name, run in arms.items():
            synchronize()
            began = time.perf_counter()
            run()
            synchronize()
            if round_number >= warmup:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """The median of the round by round ratio of two arms, which a drifting machine does not move."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under]))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_rate(device: str = "cpu", *, size: int = 1024, repeats: int = 9) -> float:
    """FLOP/s of a large float32 matrix product on this machine, by the median."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    seconds = alternate({"product": lambda: left @ right}, repeats=repeats, warmup=3)
    return 2 * size**3 / medians(seconds)["product"]


def machine() -> dict[str, object]:
    """Description of the machine."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def resident_bytes() -> int:
    """Memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def peak_bytes() -> int:
    """The most memory that the process has held."""
    line = next(line for line in _lines("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def held_bytes(run: Callable[[], object]) -> int:
    """The most bytes that torch's tensors held at once while `run` ran, beyond what they held before.

    A process holds more: its allocator keeps what it may use again.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0)


def in_new_process(function: Callable, *arguments):
    """The result of a module's function in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def save(name: str, rows: Sequence[dict], output: Path, **about) -> Path:
    """Write the rows and what they were measured on as JSON."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **about, "rows": list(rows)}, indent=2) + "\n")
    return path


def print_table(rows: Sequence[dict]) -> None:
    """A Markdown table, as it stands in the README."""
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for row in rows:
        print("| " + " | ".join(_cell(row[column]) for column in columns) + " |")


def _cell(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def draw_lines(
    name: str, lines: dict[str, tuple[Sequence, Sequence]], output: Path, *, x: str, y: str, log: bool = True
) -> Path:
    """One picture of several lines, `label -> (xs, ys)`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, (xs, ys) in lines.items():
        axes.plot(xs, ys, marker="o", label=label)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    path = output / f"{name}.png"
    figure.savefig(path, dpi=150)
    return path


def draw_bars(name: str, rows: Sequence[dict], output: Path, *, label: str, columns: Sequence[str], y: str) -> Path:
    """One picture of groups of bars: a group for each row, a bar for each of `columns`."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(columns)
    for offset, column in enumerate(columns):
        axes.bar([i + offset * width for i in range(len(rows))], [row[column] for row in rows], width, label=column)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(rows))], [row[label] for row in rows], fontsize=7)
    axes.set_ylabel(y)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    path = output / f"{name}.png"
    figure.savefig(path, dpi=150)
    return path
