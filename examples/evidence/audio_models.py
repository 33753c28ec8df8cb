"""Models of spoken conversations: the memory and the baselines that need no LoRA, on the same frozen host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from optimisation import CosineAdamW
from spoken_suites import Encoded
from torch import Tensor

from titans_mal.evaluation.baselines import speaker_normalised


BATCH = 16  # conversations


def train(
    parameters: Sequence[Tensor],
    encoded: Encoded,
    loss_of: Callable[[Encoded], Tensor],
    *,
    steps: int,
    seed: int,
    learning_rate: float,
    name: str,
) -> None:
    """AdamW with warm-up and cosine decay, on batches of whole conversations."""
    optimizer = CosineAdamW(parameters, learning_rate=learning_rate, steps=steps)
    rng, order, losses = np.random.default_rng(seed), np.array([], dtype=int), []
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(len(encoded))])
        chosen, order = order[:BATCH], order[BATCH:]
        loss = loss_of(encoded[torch.as_tensor(chosen)])
        optimizer.step(loss)
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            print(f"{name}, step {step} of {steps}: loss {np.mean(losses[-100:]):.3f}", flush=True)


def train_memory(
    model, encoded: Encoded, *, steps: int, seed: int, learning_rate: float = 3e-3, writes: bool = True
) -> None:
    """Train the memory alone, on all turns of a batch of conversations at once.

    Args:
        model: with a fresh memory, its host frozen.
        encoded: the conversations.
        steps, seed, learning_rate: of the training.
        writes: False: turns read the learned memory and never write.
    """
    parameters = list(model.titans_memory.requires_grad_(True).parameters())
    model.train()

    def loss_of(batch):
        return model(**batch.turn_inputs(), update_memory=writes, emotion_labels=batch.labels.flatten()).loss

    name = "memory" if writes else "never-written memory"
    train(parameters, encoded, loss_of, steps=steps, seed=seed, learning_rate=learning_rate, name=name)
    model.eval().requires_grad_(False)


@torch.no_grad()
def memory_logits(model, encoded: Encoded, *, resets: bool = False, writes: bool = True) -> Tensor:
    """(conversations, turns, labels), with what each turn reads.

    Args:
        model: with its memory.
        encoded: the conversations.
        resets: the memory is empty before each turn.
        writes: False: it is never written.
    """
    logits = []
    for start in range(0, len(encoded), BATCH):
        batch = encoded[start : start + BATCH]
        inputs = batch.turn_inputs()
        if resets:
            del inputs["conversation_ids"]
        logits.append(model(**inputs, update_memory=writes).emotion_logits.unflatten(0, batch.labels.shape))
    return torch.cat(logits)


def normalised_logits(encoded: Encoded) -> Tensor:
    """(conversations, turns, labels), the host's logits by themselves, normalised by what the speaker had so far."""
    conversations = np.arange(len(encoded)).repeat(encoded.labels.shape[1])
    logits = encoded.host_logits.flatten(0, 1).double().numpy()
    scores = speaker_normalised(logits, conversations, encoded.speakers.flatten().tolist())
    return torch.as_tensor(scores).unflatten(0, encoded.labels.shape)
