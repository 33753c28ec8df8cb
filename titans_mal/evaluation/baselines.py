"""Baselines: the logits of single turns, combined with simple information on the dialogue.

All run forward in time only, so that they could be used live, and use no gold labels of the evaluated split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from ..modeling.emotion_transitions import follow_turns


def speaker_normalised(logits: np.ndarray, conversations: Sequence[str], speakers: Sequence[str]) -> np.ndarray:
    """(turns, labels), each turn's logits, normalised by the speaker's logits so far.

    A cheap baseline for a memory: with the running mean m and variance s^2 of each label's logit (minus the turn's
    mean over labels) over the speaker's turns up to and including this one, z = (l - m) / s. One additional turn of
    mean 0 and variance 1 is included, so that a speaker's first turn keeps the order of its logits.

    Args:
        logits: (turns, labels), in chronological order.
    """
    centred = logits - logits.mean(-1, keepdims=True)
    count: Counter = Counter()
    total: dict = defaultdict(lambda: np.zeros(logits.shape[1]))
    squares: dict = defaultdict(lambda: np.ones(logits.shape[1]))
    scores = np.empty_like(centred)
    for position, speaker in enumerate(zip(conversations, speakers)):
        count[speaker] += 1
        total[speaker] = total[speaker] + centred[position]
        squares[speaker] = squares[speaker] + centred[position] ** 2
        mean = total[speaker] / (count[speaker] + 1)
        variance = squares[speaker] / (count[speaker] + 1) - mean**2
        scores[position] = (centred[position] - mean) / np.sqrt(variance)
    return scores


def speaker_centred(
    logits: np.ndarray, conversations: Sequence[str], speakers: Sequence[str], training_mean: np.ndarray
) -> np.ndarray:
    """(turns, labels), the logits after centring the readout's input by speaker.

    From the readout's input h, the mean over the speaker's n earlier turns is subtracted and that of the training
    split added, with the weight n / (n + 2): h - n / (n + 2) (mean of the speaker - mean of the training split). Since
    the readout is linear in h, the same is done to the logits, without storing h.

    Args:
        logits: (turns, labels), with memory off, in chronological order.
        training_mean: (labels,), mean logits of the training split, with memory off.
    """
    count: Counter = Counter()
    total: dict = defaultdict(lambda: np.zeros(logits.shape[1]))
    scores = np.empty_like(logits)
    for position, speaker in enumerate(zip(conversations, speakers)):
        n = count[speaker]
        shift = total[speaker] / n - training_mean if n else 0.0
        scores[position] = logits[position] - n / (n + 2) * shift
        count[speaker] += 1
        total[speaker] = total[speaker] + logits[position]
    return scores


def emotion_transitions(
    labels: Sequence[int], conversations: Sequence[str], num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of labels, and of transitions within a conversation.

    One is added to the count of each label, and to both the count and the expected count of each transition: without
    evidence, a label follows as often as it occurs.

    Args:
        labels: (turns,) of a training split, in chronological order; below 0 = unknown.

    Returns:
        prior (labels,), and transitions (labels, labels) with the earlier label in rows; both normalised.
    """
    prior, transitions = np.ones(num_labels), np.zeros((num_labels, num_labels))
    previous: dict[str, int] = {}
    for label, name in zip(labels, conversations):
        if label >= 0:
            prior[label] += 1
            if previous.get(name, -1) >= 0:
                transitions[previous[name], label] += 1
        previous[name] = label
    prior /= prior.sum()
    expected = transitions.sum(1, keepdims=True) * prior
    transitions = prior * (transitions + 1) / (expected + 1)
    return prior, transitions / transitions.sum(1, keepdims=True)


def decode_dialogues(
    logits: np.ndarray, conversations: Sequence[str], prior: np.ndarray, transitions: np.ndarray
) -> np.ndarray:
    """(turns, labels), log-probabilities of each turn's label given the logits of this and earlier turns.

    As a model with `emotion_transitions` computes them (`follow_transitions`). The first turn of a dialogue keeps its
    probabilities.

    Args:
        logits: (turns, labels), with memory off or on, in chronological order.
        prior, transitions: the results of `emotion_transitions`.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(conversations))}
    turns: list[tuple[list[int], list[int]]] = []  # the first ones of all dialogues, the second ones, ...
    count: Counter = Counter()
    for row, name in enumerate(conversations):
        if count[name] == len(turns):
            turns.append(([], []))
        rows, dialogues = turns[count[name]]
        rows.append(row)
        dialogues.append(numbers[name])
        count[name] += 1
    decoded, _ = follow_turns(
        torch.from_numpy(np.asarray(logits, np.float64)),
        torch.ones(len(logits), dtype=torch.bool),
        torch.zeros(len(numbers), len(prior)),
        turns,
        (transitions / prior).tolist(),
        temperature=1.0,
    )
    return decoded.log_softmax(-1).numpy()
