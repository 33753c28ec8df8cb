"""Synthetic conversations as audio: the scripts of a suite, spoken by synthetic voices."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from ..table import conversation_table
from .suites import EMOTIONS, SUITES, Script, Suite, baseline
from .voices import SAMPLING_RATE, to_wav


# The suites that `load_conversations` knows by name, and the number of conversations and seed of each split.
NAMED_SUITES = {f"synthetic-{name}": suite for name, suite in SUITES.items()}
SPLITS = {
    "train": {"num_conversations": 200, "seed": 1},
    "test": {"num_conversations": 50, "seed": 0},
}
# Silence between two turns, in seconds.
PAUSE = 0.3


def speak(script: Script, rng: np.random.Generator) -> list[np.ndarray]:
    """The audio of each turn, (samples,) float32 at `SAMPLING_RATE`."""
    return [
        script.voices[turn.speaker].speak(turn.pitch, turn.level, rng, whispered=turn.is_whispered)
        for turn in script.turns
    ]


def synthetic_conversations(
    num_conversations: int, *, seed: int, suite: Suite | None = None, split: str = "test"
) -> Dataset:
    """Synthetic conversations as a table like that of `load_conversations`.

    Args:
        num_conversations: number of conversations.
        seed: the same seed gives the same audio.
        suite: a suite of `titans_mal.data.synthetic.suites`; None: `baseline()`.
        split: value of the column `split`.

    Returns:
        A dataset with one row per turn; `audio` holds 16 kHz WAV bytes. Introductions, known to be neutral, have the
        label -1: they are processed but not scored.
    """
    suite = baseline() if suite is None else suite
    rows = []
    for number in range(num_conversations):
        rng = np.random.default_rng((seed, number))
        rows += _rows(f"{suite.name}_{seed}_{number:04d}", suite.draw(rng), rng, split)
    table = conversation_table(rows, EMOTIONS)
    table.info.dataset_name, table.info.config_name = f"synthetic-{suite.name}", f"seed {seed}"
    return table


def _rows(name: str, script: Script, rng: np.random.Generator, split: str) -> list[dict]:
    rows, clock = [], 0.0
    for index, (turn, waveform) in enumerate(zip(script.turns, speak(script, rng))):
        speaker, seconds = chr(ord("A") + turn.speaker), len(waveform) / SAMPLING_RATE
        rows.append(
            {
                "conversation_id": name,
                "turn_index": index,
                # Names are unique across conversations, since no two share a voice.
                "speaker": f"{name}_{speaker}",
                "audio": {"path": f"{name}_t{index:02d}_{speaker}.wav", "bytes": to_wav(waveform)},
                "emotion": -1 if turn.is_introduction else turn.emotion,
                "start": clock,
                "end": clock + seconds,
                "seconds": seconds,
                "split": split,
            }
        )
        clock += seconds + PAUSE
    return rows
