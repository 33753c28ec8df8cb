"""The memory on voices of another synthesizer: as trained, and after some steps of fine-tuning on them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from audio_models import memory_logits, normalised_logits, train_memory
from spoken_suites import Encoded, encode_table, load_host
from torch import Tensor

from titans_mal import load_conversations
from titans_mal.data.synthetic.suites import EMOTIONS


# As in the suites, the first turn of each of the two speakers is neutral and not scored.
INTRODUCTIONS = 2
CONDITIONS = {
    "memory off": "memory off: the host",
    "normalised": "z-normalised by speaker",
    "memory": "memory as trained",
    "reset": "memory reset every turn",
    "fine-tuned": "memory fine-tuned",
    "fine-tuned reset": "fine-tuned, reset every turn",
}


def score_other_voices(model, folder: Path, *, steps: int, seed: int) -> dict[str, list[float]]:
    """Accuracy on each conversation of a folder's test split, by model.

    Args:
        model: with its memory, which stays as it is.
        folder: of `load_conversations`, with the splits train and test.
        steps, seed: of the fine-tuning of a copy of the memory on the train split.
    """
    host, processor = load_host()
    table = load_conversations(folder, label_set=EMOTIONS)
    test = encode_table(host, processor, table["test"], unscored=INTRODUCTIONS)
    tuned = copy.deepcopy(model)
    training = encode_table(host, processor, table["train"], unscored=INTRODUCTIONS)
    train_memory(tuned, training, steps=steps, seed=seed, learning_rate=1e-3)
    logits = {
        "memory off": test.host_logits,
        "normalised": normalised_logits(test),
        "memory": memory_logits(model, test),
        "reset": memory_logits(model, test, resets=True),
        "fine-tuned": memory_logits(tuned, test),
        "fine-tuned reset": memory_logits(tuned, test, resets=True),
    }
    return {name: _accuracies(scores, test) for name, scores in logits.items()}


def _accuracies(logits: Tensor, encoded: Encoded) -> list[float]:
    """(conversations,), all of as many scored turns."""
    scored = encoded.labels >= 0
    return (((logits.argmax(-1) == encoded.labels) & scored).sum(1) / scored.sum(1)).tolist()


def other_voices_table(name: str, found: dict[str, dict[str, list[float]]]) -> str:
    """Accuracies and the gain over memory off, by condition; with 95 % bootstrap intervals over conversations.

    Args:
        name: of the folder.
        found: by seed, what `score_other_voices` returned.
    """
    host = np.mean([seed["memory off"] for seed in found.values()], 0)
    drawn = np.random.default_rng(0).integers(len(host), size=(2000, len(host)))
    lines = [
        f"\n| {name}, {len(found)} seed(s) | accuracy, % | points over memory off (95 % interval) |",
        "| --- | ---: | ---: |",
    ]
    for key, title in CONDITIONS.items():
        gains = np.mean([seed[key] for seed in found.values()], 0) - host
        low, high = np.percentile(100 * gains[drawn].mean(1), (2.5, 97.5))
        gain = f"{100 * gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(f"| {title} | {100 * (gains + host).mean():.1f} | {gain} |")
    return "\n".join(lines)
