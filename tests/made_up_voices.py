"""Made-up corpora for the tests of the example on human voices."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from tiny_models import tone

from titans_mal.data.synthetic.voices import to_wav


def write_voices(folder: Path, *, speakers: int, takes: int, words=("joy", "sad")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # As a spreadsheet may write it.
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-16") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "speaker", "emotion", "gender", "licence"])
        for speaker in range(speakers):
            for emotion, word in enumerate(words):
                for take in range(takes):
                    name = f"{speaker}_{word}_{take}.wav"
                    (folder / name).write_bytes(to_wav(tone(0.3, frequency=100 + 20 * speaker + 7 * emotion + take)))
                    table.writerow([name, f"p{speaker}", word, "FM"[speaker % 2], "CC BY-NC 4.0"])
    return folder


def corpus_of(speakers: int = 4, emotions: int = 3, takes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(speakers), emotions * takes), np.tile(np.repeat(np.arange(emotions), takes), speakers)
