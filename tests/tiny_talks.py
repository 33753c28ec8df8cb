"""A folder of short conversations of tones, as `load_conversations` reads them."""

from __future__ import annotations

import csv
from pathlib import Path

from tiny_models import LABELS, tone

from titans_mal.data.synthetic.voices import to_wav


# Turns of each conversation: some are longer than a window of three, some shorter.
TALKS = {"train": {"a": 3, "b": 7, "c": 2, "d": 5, "e": 4}, "test": {"x": 3, "y": 4}}


def write_talks(folder: Path) -> Path:
    """Write `TALKS` and their metadata.csv; speakers alternate, labels go round."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "split"])
        turns = [(s, talk, turn) for s, talks in TALKS.items() for talk, n in talks.items() for turn in range(n)]
        for split, talk, turn in turns:
            name = f"{talk}{turn}.wav"
            audio = tone(0.4 + 0.1 * (turn % 3), frequency=100 + 40 * turn + 11 * ord(talk) % 50)
            (folder / name).write_bytes(to_wav(audio))
            table.writerow([name, talk, turn, "XY"[turn % 2], LABELS[(turn + ord(talk)) % 4], split])
    return folder
