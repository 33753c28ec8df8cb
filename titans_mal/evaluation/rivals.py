"""Cheap rivals of a memory: what the host's own answers to single turns give, once the dialogue is taken into account.

All run forward only, so that they could be used live, and see no gold label of the evaluated split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, logsumexp


def speaker_centred(
    logits: np.ndarray, conversations: Sequence[str], speakers: Sequence[str], training_mean: np.ndarray
) -> np.ndarray:
    """(turns, labels), the logits if the readout's input were centred by speaker.

    From the readout's input h the mean of the speaker's n earlier turns is taken off and that of the training split
    put back, with the weight n / (n + 2): h - n / (n + 2) (mean of the speaker - mean of the training split). The
    readout is linear in h, so the same is done here to its logits, without keeping any h.

    Args:
        logits: (turns, labels), with memory off, in the order in which the turns were said.
        training_mean: (labels,), of the logits of the training split, with memory off.
    """
    count: Counter = Counter()
    total: dict = defaultdict(lambda: np.zeros(logits.shape[1]))
    scores = np.empty_like(logits)
    for position, talker in enumerate(zip(conversations, speakers)):
        n = count[talker]
        shift = total[talker] / n - training_mean if n else 0.0
        scores[position] = logits[position] - n / (n + 2) * shift
        count[talker] += 1
        total[talker] = total[talker] + logits[position]
    return scores


def emotion_transitions(
    labels: Sequence[int], conversations: Sequence[str], num_labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often labels occur, and how often one follows another in the same conversation; both with one more of each.

    Args:
        labels: (turns,) of a training split, in the order in which the turns were said; below 0 = not known.

    Returns:
        prior (labels,), and transitions (labels, labels) with the earlier label in rows, each with the sum 1.
    """
    prior, transitions = np.ones(num_labels), np.ones((num_labels, num_labels))
    previous: dict[str, int] = {}
    for label, name in zip(labels, conversations):
        if label >= 0:
            prior[label] += 1
            if previous.get(name, -1) >= 0:
                transitions[previous[name], label] += 1
        previous[name] = label
    return prior / prior.sum(), transitions / transitions.sum(1, keepdims=True)


def decode_dialogues(
    logits: np.ndarray, conversations: Sequence[str], prior: np.ndarray, transitions: np.ndarray
) -> np.ndarray:
    """(turns, labels), log-probabilities of each turn's label given the answers to it and to the turns before it.

    The forward recursion of a hidden Markov model (Rabiner 1989, equations 19 and 20), whose likelihood of a turn is
    the host's probability over the label's prior: b_t(j) = p_t(j) / prior(j) sum_i b_{t-1}(i) transitions(i, j). The
    first turn of a dialogue keeps its probabilities.

    Args:
        logits: (turns, labels), with memory off, in the order in which the turns were said.
        prior, transitions: of `emotion_transitions`.
    """
    evidence = log_softmax(logits, axis=-1) - np.log(prior)
    beliefs: dict[str, np.ndarray] = {}
    decoded = np.empty_like(logits)
    for position, name in enumerate(conversations):
        expected = np.log(prior)
        if name in beliefs:
            expected = logsumexp(beliefs[name][:, None] + np.log(transitions), axis=0)
        joint = evidence[position] + expected
        decoded[position] = beliefs[name] = joint - logsumexp(joint)
    return decoded
