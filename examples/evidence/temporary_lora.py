"""A LoRA that lasts as long as a conversation and is trained while it is encoded, after arXiv 2507.09076.

There, a temporary LoRA is trained on the words and the emotion of each sentence during inference. Here the host
describes a turn (emotion, pitch, level, voice, as trained), and the LoRA is trained on this answer before the next
turn. The paper gives no learning rate: it is chosen out of `LEARNING_RATES` on training conversations.
"""

from __future__ import annotations

import torch
from prompt_history import add_lora
from spoken_suites import Encoded
from torch import Tensor
from torch.nn import functional as F


LEARNING_RATES = (3e-4, 1e-3, 3e-3)
STEPS = 2  # for each turn
RANK = 8
ANSWER_LENGTH = 4  # words


def temporary_logits(model, encoded: Encoded, *, learning_rate: float, seed: int = 0) -> Tensor:
    """(conversations, turns, labels); every conversation starts with a LoRA that does nothing.

    Args:
        model: its host has no LoRA; the temporary one is removed.
        encoded: the conversations.
        learning_rate: of Adam, with `STEPS` steps a turn.
        seed: of the LoRA.
    """
    parameters = add_lora(model, rank=RANK, seed=seed)
    fresh = [parameter.detach().clone() for parameter in parameters]
    scores = []
    with model.disable_memory():
        for conversation in range(len(encoded)):
            for parameter, start in zip(parameters, fresh):
                parameter.data.copy_(start)
            optimizer = torch.optim.Adam(parameters, lr=learning_rate)
            for turn in range(encoded.labels.shape[1]):
                embeddings = encoded.turn(conversation, turn)[None]
                logits, answer = _describe(model, embeddings)
                scores.append(logits)
                for _ in range(STEPS):
                    optimizer.zero_grad()
                    _answer_loss(model, embeddings, answer).backward()
                    optimizer.step()
    model.delete_adapter("default")
    return torch.stack(scores).unflatten(0, encoded.labels.shape)


def choose_learning_rate(model, encoded: Encoded, *, seed: int = 0, conversations: int = 20) -> float:
    """The one of `LEARNING_RATES` with the highest accuracy on some training conversations."""
    tried = encoded[:conversations]
    accuracies = {}
    for rate in LEARNING_RATES:
        right = temporary_logits(model, tried, learning_rate=rate, seed=seed).argmax(-1) == tried.labels
        accuracies[rate] = float(right[tried.labels >= 0].float().mean())
    print(
        f"temporary LoRA, accuracy on {len(tried)} training conversations by learning rate: {accuracies}", flush=True
    )
    return max(accuracies, key=accuracies.get)


@torch.no_grad()
def _describe(model, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """(labels,) logits of a turn, and the words (words,) that the host says of it, the likeliest each."""
    words: list[Tensor] = []
    for _ in range(ANSWER_LENGTH):
        said = model.get_input_embeddings()(torch.stack(words))[None] if words else embeddings[:, :0]
        last = _decode(model, torch.cat([embeddings, said], 1))[0, -1]
        if not words:
            logits = last[model.config.label_token_ids]
        words.append(last.argmax())
    return logits, torch.stack(words)


def _answer_loss(model, embeddings: Tensor, answer: Tensor) -> Tensor:
    """Cross-entropy of the words of an answer (words,) after a turn (1, positions, hidden_size)."""
    said = model.get_input_embeddings()(answer[:-1])[None]
    logits = _decode(model, torch.cat([embeddings, said], 1))[0, -len(answer) :]
    return F.cross_entropy(logits, answer)


def _decode(model, embeddings: Tensor) -> Tensor:
    return model.lm_head(model.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state)
