"""Emotion logits from a host by label tokens; where they are read, and their loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def last_unmasked_positions(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """(rows,), the last position of each row that is not padding; padding may be on either side.

    Args:
        attention_mask: (rows, positions), 1 = not padding; None: no padding.
        input_ids: (rows, positions).
    """
    rows, length = input_ids.shape
    if attention_mask is None:
        return torch.full((rows,), length - 1, device=input_ids.device)
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    # The mask may also cover the key-value cache of earlier calls.
    return (positions * (attention_mask != 0)).amax(-1) - (attention_mask.shape[1] - length)


def answer_logits(logits: Tensor, positions: Tensor, length: int, *, earliest: int | None = None) -> Tensor:
    """The next-token logits where each row's answer begins.

    Args:
        logits: (rows, kept positions, vocab_size), for the last positions of the sequence.
        positions: (rows,), where the answers begin, as positions in the whole sequence.
        length: length of the whole sequence.
        earliest: the smallest of the positions, if known: reading it from an accelerator would synchronize.

    Returns:
        (rows, vocab_size).

    Raises:
        ValueError: if the logits of a row's position were not kept.
    """
    first_kept = length - logits.shape[1]
    if first_kept and not torch.compiler.is_compiling():
        check_kept(int(positions.min()) if earliest is None else earliest, length, logits.shape[1])
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, (positions - first_kept).clamp(min=0).to(logits.device)]


def check_kept(earliest: int, length: int, kept: int) -> None:
    """Raise ValueError if the last `kept` of `length` positions do not include the position `earliest`."""
    if earliest < length - kept:
        raise ValueError(f"logits_to_keep={kept} drops the last position of a right-padded row: pad on the left.")


def label_logits(answers: Tensor, label_token_ids: Sequence[int]) -> Tensor:
    """(rows, labels): of `answer_logits`, the logit of each label's token, in float32 (float64 for float64 logits)."""
    selected = answers[:, label_token_ids]
    return selected if selected.dtype == torch.float64 else selected.float()


def emotion_loss(
    emotion_logits: Tensor,
    emotion_labels: Tensor | Sequence[int],
    id2label: dict[int, str],
    *,
    text_labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    largest_label: int | None = None,
) -> Tensor:
    """Cross-entropy of the scored rows: their mean, or their share of the mean over a step of several batches.

    With `num_items_in_batch`, each scored row counts as many items as its text has (at least one), so that the losses
    of accumulated batches add up to the loss of one larger batch.

    Args:
        emotion_logits: (rows, labels).
        emotion_labels: (rows,) integers; below 0 = not scored.
        id2label: the allowed labels.
        text_labels: (rows, positions), the host's `labels`, -100 = not scored; None: each row is one item.
        num_items_in_batch: items in the whole step, as Trainer counts them in `labels`; None: mean over these rows.
        largest_label: the largest of the labels, if known: reading it from an accelerator would synchronize.

    Returns:
        A scalar; 0, with a graph, if no row is scored.

    Raises:
        ValueError: for labels of another shape or type, or outside `id2label`.
    """
    labels = torch.as_tensor(emotion_labels)
    if labels.shape != emotion_logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"emotion_labels must be ({len(emotion_logits)},) integers, one per row, got {labels.dtype} "
            f"{tuple(labels.shape)}."
        )
    if not torch.compiler.is_compiling():
        largest = (int(labels.max()) if len(labels) else -1) if largest_label is None else largest_label
        if largest >= len(id2label):
            raise ValueError(f"emotion_labels must be below 0 or in {id2label}, got {sorted(set(labels.tolist()))}.")
    labels = labels.to(emotion_logits.device)
    scored = labels >= 0
    losses = F.cross_entropy(emotion_logits, labels.clamp(min=0).long(), reduction="none") * scored
    if num_items_in_batch is None:
        return losses.sum() / scored.sum().clamp(min=1)
    if text_labels is not None:
        # The first token is not predicted.
        losses = losses * (text_labels[:, 1:] != -100).sum(-1).clamp(min=1).to(losses.device)
    return losses.sum() / torch.as_tensor(num_items_in_batch, device=losses.device)
