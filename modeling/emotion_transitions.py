"""Emotions that follow each other: the scores of a turn, given the likely emotion of the turn before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


# Bounds of a ratio between probabilities, which keep logits finite.
LEAST, MOST = 1e-6, 1e6


def check_transitions(transitions: Any, labels: int) -> None:
    """Check a matrix of `follow_transitions`.

    Raises:
        ValueError: for anything but (labels, labels) numbers from `LEAST` to `MOST`.
    """
    is_square = (
        isinstance(transitions, list)
        and len(transitions) == labels
        and all(isinstance(row, list) and len(row) == labels for row in transitions)
    )
    if not is_square or not all(_is_allowed(value) for row in transitions for value in row):
        raise ValueError(
            f"emotion_transitions must be a list of {labels} lists of {labels} numbers from {LEAST} to {MOST}, one "
            f"for each label, got {transitions!r:.500}."
        )


def _is_allowed(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= MOST


def follow_transitions(logits: Tensor, beliefs: Tensor, transitions: Tensor, temperature: float) -> Tensor:
    """Shift the logits of turns by what the turns before make likely.

    The forward recursion of a hidden Markov model (Rabiner 1989, equations 19 and 20), where the likelihood of a turn
    is its probability divided by that of the label, with the temperature T:

        z_t(j) = logits_t(j) + T log(sum_i b_{t-1}(i) R(i, j))
        b_t = softmax(z_t / T)      R(i, j) = P(j after i) / P(j)

    Args:
        logits: (turns, labels), of different conversations.
        beliefs: (turns, labels), the probabilities b of the turn before, or zeros for a first turn, which keeps its
            logits.
        transitions: (labels, labels), R with the earlier label in rows.
        temperature: T, which divides logits before they become probabilities.

    Returns:
        (turns, labels), in the dtype of the logits.
    """
    # Not a matrix product, which autocast would round.
    expected = (beliefs.to(logits)[:, :, None] * transitions.to(logits)).sum(1)
    is_first = (beliefs == 0).all(-1, keepdim=True)
    return logits + temperature * expected.masked_fill(is_first, 1).log()


def follow_turns(
    logits: Tensor,
    has_audio: Tensor,
    beliefs: Tensor,
    turns: Sequence[tuple[list[int], list[int]]],
    transitions: list[list[float]],
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Follow the transitions turn by turn.

    Args:
        logits: (rows, labels).
        has_audio: (rows,) bool; other rows are no turns.
        beliefs: (conversations, labels) float32, before the first of the turns; zeros = none.
        turns: the rows of first turns and their conversations, those of second turns, ...
        transitions, temperature: as `follow_transitions` takes them.

    Returns:
        The logits, (rows, labels), and the beliefs after the last turns, without their graph. A turn whose logits are
        not finite, which only compiled code lets pass, leaves the belief before it.

    Raises:
        ValueError: for beliefs on another number of labels.
    """
    labels, device = logits.shape[1], logits.device
    if beliefs.shape[1] != labels:
        raise ValueError(f"memory_cache holds beliefs on {beliefs.shape[1]} labels, but the model has {labels}.")

    def sent(values: list, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)  # without waiting for the device

    ratios = sent(transitions, logits.dtype)
    beliefs, has_audio = beliefs.to(device), has_audio[:, None]
    for rows, conversations in turns:
        here, places = sent(rows), sent(conversations)
        before, is_turn = beliefs[places], has_audio[here]
        followed = follow_transitions(logits[here], before, ratios, temperature)
        logits = logits.index_copy(0, here, torch.where(is_turn, followed, logits[here]))
        after = (followed.detach().to(torch.float32) / temperature).softmax(-1)
        is_kept = is_turn & after.isfinite().all(-1, keepdim=True)
        beliefs = beliefs.index_copy(0, places, torch.where(is_kept, after, before))
    return logits, beliefs


def are_beliefs(beliefs: Tensor) -> bool:
    """Whether each row of a stored tensor, (conversations, labels), holds probabilities, or zeros for no turn."""
    if beliefs.dtype != torch.float32:
        return False
    sums = beliefs.sum(-1)
    is_one_or_zero = ((sums - 1).abs() < 1e-3) | (sums == 0)
    return bool((beliefs >= 0).all() & is_one_or_zero.all())
