"""History in the prompt: earlier turns come before the turn, and a LoRA teaches the host to use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from audio_models import BATCH, train
from peft import LoraConfig
from spoken_suites import Encoded
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


# About as many parameters as the memory has: on every linear layer of the decoder.
RANK = 29
TARGETS = r".*language_model.*_proj"


def add_lora(model, *, rank: int = RANK, seed: int = 0) -> list[Tensor]:
    """A fresh LoRA on the host's decoder, and its parameters; it changes nothing before it is trained."""
    torch.manual_seed(seed)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))
    parameters = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


class Stretch(NamedTuple):
    """Turns of a conversation that one prompt holds, in order, of which the last `answers` are answered."""

    turns: Sequence[int]
    answers: int


def windows(turns: Sequence[int], history: int) -> list[Stretch]:
    """Stretches that give every turn exactly its last `history` turns, or all that there are."""
    head = turns[: history + 1]
    later = [Stretch(turns[stop - history - 1 : stop], 1) for stop in range(history + 2, len(turns) + 1)]
    return [Stretch(head, len(head)), *later]


def tiles(turns: Sequence[int], history: int, rng: np.random.Generator) -> list[Stretch]:
    """Turns cut into stretches of `history + 1` from a random turn on.

    For training: each turn is scored once, as by the memory, with up to `history` turns before it.
    """
    cuts = range(int(rng.integers(1, history + 2)), len(turns), history + 1) if history + 1 < len(turns) else []
    starts = [0, *cuts]
    parts = [turns[start:stop] for start, stop in zip(starts, [*starts[1:], len(turns)])]
    return [Stretch(part, len(part)) for part in parts]


def prompted_logits(
    model, encoded: Encoded, cut: Callable[[Sequence[int]], list[Stretch]], *, by_speaker: bool = False
) -> Tensor:
    """(conversations, turns, labels), from prompts that hold a stretch of a conversation each.

    A prompt is one causal sequence of the turns' prompts, so it answers several turns at once.

    Args:
        model: its memory is not used.
        encoded: the conversations.
        cut: `windows` or `tiles`, which answer each turn once.
        by_speaker: a prompt holds the turns of one speaker alone.
    """
    sequences, ends, answered = [], [], []
    for conversation, speakers in enumerate(encoded.speakers.tolist()):
        for turns in _turns_of_each(speakers) if by_speaker else [range(len(speakers))]:
            for stretch in cut(turns):
                parts = [encoded.turn(conversation, turn) for turn in stretch.turns]
                lengths = torch.tensor([len(part) for part in parts])
                ends.append((lengths.cumsum(0) - lengths.sum())[-stretch.answers :])  # counted from the end
                answered += [conversation * len(speakers) + turn for turn in stretch.turns[-stretch.answers :]]
                sequences.append(torch.cat(parts))
    embeddings = pad_sequence(sequences, batch_first=True, padding_side="left")
    masks = [torch.ones(len(sequence), dtype=torch.long) for sequence in sequences]
    mask = pad_sequence(masks, batch_first=True, padding_side="left")
    hidden = model.get_decoder()(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
    rows = torch.arange(len(ends)).repeat_interleave(torch.tensor([len(end) for end in ends]))
    logits = model.lm_head(hidden[rows, torch.cat(ends) - 1])[:, model.config.label_token_ids]
    order = torch.argsort(torch.tensor(answered))
    return logits[order].unflatten(0, encoded.labels.shape)


def _turns_of_each(speakers: list[int]) -> list[list[int]]:
    return [[turn for turn, speaker in enumerate(speakers) if speaker == one] for one in sorted(set(speakers))]


def train_history(
    model,
    encoded: Encoded,
    history: int,
    *,
    steps: int,
    seed: int,
    by_speaker: bool = False,
    learning_rate: float = 3e-3,
) -> list[Tensor]:
    """Give the host a LoRA and train it with `history` turns in the prompt; 0 fine-tunes it on turns alone.

    Args:
        by_speaker: as in `prompted_logits`.

    Returns:
        The LoRA's parameters.
    """
    parameters, rng = add_lora(model, seed=seed), np.random.default_rng((seed, history))

    def loss_of(batch):
        logits = prompted_logits(model, batch, lambda turns: tiles(turns, history, rng), by_speaker=by_speaker)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-1)

    name = f"LoRA with {history} turns of history"
    train(parameters, encoded, loss_of, steps=steps, seed=seed, learning_rate=learning_rate, name=name)
    return parameters


@torch.no_grad()
def history_logits(model, encoded: Encoded, history: int, *, by_speaker: bool = False) -> Tensor:
    """(conversations, turns, labels), each turn with exactly its last `history` turns before it."""
    batches = range(0, len(encoded), BATCH)
    return torch.cat([
        prompted_logits(
            model, encoded[start : start + BATCH], lambda turns: windows(turns, history), by_speaker=by_speaker
        )
        for start in batches
    ])  # fmt: skip
