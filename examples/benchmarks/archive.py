"""An archive of short calls over one process and over two: how many calls a second, and that nothing is done twice.

    python examples/benchmarks/archive.py [--calls 1000] [--processes 1 2] [--folder archive]

The calls are composed of the shipped conversation's turns, with pauses between them. Each run is the command
`titans-mal analyze --batch`; it is repeated when it has ended, which shows how long its start takes and that finished
calls are left alone. With --folder, calls and results stay: a benchmark that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np

from titans_mal import load_audio
from titans_mal.modeling.atomic_files import replacing


QUICKSTART = Path(__file__).resolve().parents[1] / "quickstart"
RATE, TURNS = 16_000, 3


def write_calls(folder: Path, calls: int) -> None:
    """Calls of three turns, those that are missing."""
    clips = [load_audio(path) for path in sorted((QUICKSTART / "conversation").glob("turn_*.wav"))]
    pause = np.zeros(RATE, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    for call in range(calls):
        path = folder / f"call_{call:05}.wav"
        if path.exists():
            continue
        chosen = np.random.default_rng(call).choice(len(clips), TURNS, replace=False)
        audio = np.concatenate([part for place in chosen for part in (pause, clips[place])] + [pause])
        with replacing(path) as draft, wave.open(str(draft), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(np.round(audio * 32767).astype("<i2").tobytes())


def analyze(calls: Path, results: Path, processes: int) -> float:
    """Seconds of the command."""
    command = [sys.executable, "-m", "titans_mal.cli", "analyze", "--batch", str(calls), "--output-dir", str(results)]
    command += ["--model", str(QUICKSTART / "tiny-qwen2-audio-mal"), "--num-processes", str(processes)]
    began = time.perf_counter()
    done = subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - began


def count(results: Path) -> tuple[int, int, int]:
    """Calls, turns and problems of the summary."""
    with (results / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return len(rows), sum(int(row["turns"]) for row in rows), sum(int(row["problems"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="keep calls and results here; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        calls = folder / f"calls_{given.calls}"
        write_calls(calls, given.calls)
        print(
            "| processes | calls | calls in this run | turns | problems | seconds | startup seconds | calls/s | "
            "turns/s |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for processes in given.processes:
            results = folder / f"results_{given.calls}_{processes}"
            before = len(list(results.glob("*.json"))) - (results / "run.json").exists()
            seconds, start = (analyze(calls, results, processes) for _ in range(2))
            found, turns, problems = count(results)
            now, work = found - before, max(seconds - start, 1e-9)
            rates = f"{now / work:.1f} | {turns / found * now / work:.1f}"
            print(
                f"| {processes} | {found} | {now} | {turns} | {problems} | {seconds:.0f} | {start:.0f} | {rates} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
