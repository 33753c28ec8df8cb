"""How long `load_conversations` takes for a corpus of any size: first, from the cache, and with two processes.

    python examples/benchmarks/load_corpus.py --turns 300000

It writes short files in IEMOCAP's layout into a temporary folder; those of a dialogue are links to one file.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil


# Those of IEMOCAP.
TURNS, TURNS_OF_A_DIALOGUE, SESSIONS = 10_039, 65, 5
SECONDS = 4.0


def write_corpus(root: Path, turns: int, audio: bytes) -> None:
    dialogues = math.ceil(turns / TURNS_OF_A_DIALOGUE / SESSIONS)
    places = [(session, dialogue) for session in range(1, SESSIONS + 1) for dialogue in range(dialogues)]
    for number, part in enumerate(np.array_split(np.arange(turns), len(places))):
        session, dialogue = places[number]
        name = f"Ses0{session}F_impro{dialogue:02d}"
        recordings = root / f"Session{session}" / "sentences" / "wav" / name
        labels = root / f"Session{session}" / "dialog" / "EmoEvaluation"
        recordings.mkdir(parents=True)
        labels.mkdir(parents=True, exist_ok=True)
        lines = []
        first = recordings / f"{name}_F000.wav"
        first.write_bytes(audio)
        for index in range(len(part)):
            turn = f"{name}_{'FM'[index % 2]}{index:03d}"
            if index:
                os.link(first, recordings / f"{turn}.wav")
            start = (SECONDS + 1) * index
            lines.append(f"[{start:.4f} - {start + SECONDS:.4f}]\t{turn}\tneu\t[2.5000, 2.5000, 2.5000]")
        (labels / f"{name}.txt").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder:
        # Read by datasets when it is imported: nothing is found there of an earlier run.
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        from titans_mal import load_conversations
        from titans_mal.data.synthetic.voices import SAMPLING_RATE, to_wav

        rng = np.random.default_rng(0)
        write_corpus(Path(folder) / "corpus", turns, to_wav(0.1 * rng.standard_normal(int(SECONDS * SAMPLING_RATE))))
        print("| | seconds | resident memory, MB more |\n| --- | --- | --- |")
        # Another bound of the length makes the last one read every file again.
        for name, options in (
            ("first", {}),
            ("again", {}),
            ("first, two processes", {"num_proc": 2, "max_seconds": 59.0}),
        ):
            before, began = psutil.Process().memory_info().rss, time.perf_counter()
            tables = load_conversations("iemocap", data_dir=Path(folder) / "corpus", fold=5, **options)
            taken, more = time.perf_counter() - began, psutil.Process().memory_info().rss - before
            assert sum(table.num_rows for table in tables.values()) == turns
            print(f"| {name} | {taken:.1f} | {more / 2**20:.0f} |", flush=True)


if __name__ == "__main__":
    main()
