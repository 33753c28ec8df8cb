"""Scripted conversations, synthesised and encoded: the frozen front of the host runs once for each turn.

The audio tower, the projector and the word embeddings are never trained here, so their output for a turn is
computed once. `forward` takes it as `inputs_embeds`, beside the `input_ids` that mark the audio tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion, TitansMemoryConfig, load_audio
from titans_mal.data.synthetic import speak
from titans_mal.data.synthetic.suites import Script, Suite


CHECKPOINT = Path(__file__).parents[1] / "quickstart" / "tiny-qwen2-audio-mal"
# As shipped.
LINEAR = {"feature_map": "identity", "step_bound": "token"}
MEMORY = {"layers": [0, 1, 2], "num_heads": 4, "head_dim": 32, "depth": 1, "chunk_size": 32, **LINEAR}


@dataclass(frozen=True)
class Encoded:
    """Conversations of as many turns each, as the host's first decoder block receives them.

    Attributes:
        input_ids, attention_mask: (conversations, turns, positions), padded on the left.
        embeddings: (conversations, turns, positions, hidden_size), audio tokens included.
        host_logits: (conversations, turns, labels), of the host for each turn alone.
        labels: (conversations, turns), -1 = not scored.
        speakers: (conversations, turns).
    """

    input_ids: Tensor
    attention_mask: Tensor
    embeddings: Tensor
    host_logits: Tensor
    labels: Tensor
    speakers: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen) -> Encoded:
        """Some of the conversations, by slice or index; or of their turns, by a second one."""
        return Encoded(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def turn_inputs(self) -> dict[str, Tensor]:
        """Keywords of `forward`, one row a turn: those of a conversation are successive and have its id."""
        ids = torch.arange(len(self)).repeat_interleave(self.labels.shape[1])
        return {
            "input_ids": self.input_ids.flatten(0, 1),
            "attention_mask": self.attention_mask.flatten(0, 1),
            "inputs_embeds": self.embeddings.flatten(0, 1),
            "conversation_ids": ids,
            "speaker_ids": self.speakers.flatten(),  # ignored by a memory of the conversation
            "logits_to_keep": 1,
        }

    def turn(self, conversation: int, turn: int) -> Tensor:
        """(positions, hidden_size), the embeddings of a turn without padding."""
        return self.embeddings[conversation, turn, self.attention_mask[conversation, turn].bool()]


def load_host(*, seed: int = 0, **memory):
    """The host of the shipped checkpoint with a fresh memory, and its processor.

    Args:
        seed: of the memory's weights.
        memory: fields that replace those of `MEMORY`.
    """
    shipped = AutoModelForAudioEmotion.from_pretrained(CHECKPOINT)
    config = copy.deepcopy(shipped.config)
    config.memory_config = TitansMemoryConfig(**(MEMORY | memory))
    torch.manual_seed(seed)
    model = type(shipped)(config)
    host = {name: weight for name, weight in shipped.state_dict().items() if not name.startswith("titans_memory.")}
    model.load_state_dict(host, strict=False)
    return model.eval().requires_grad_(False), AutoProcessor.from_pretrained(CHECKPOINT)


def encode_suite(model, processor, suite: Suite, conversations: int, seed: int) -> tuple[list[Script], Encoded]:
    """Conversations of a suite, those of `synthetic_conversations`, and the output of the frozen front."""
    scripts: list[Script] = []

    def spoken() -> Iterator[list[np.ndarray]]:
        for number in range(conversations):
            rng = np.random.default_rng((seed, number))
            scripts.append(suite.draw(rng))
            yield speak(scripts[-1], rng)

    front = _encode(model, processor, spoken())
    labels = [[-1 if turn.is_introduction else turn.emotion for turn in script.turns] for script in scripts]
    speakers = [[turn.speaker for turn in script.turns] for script in scripts]
    return scripts, Encoded(**front, labels=torch.tensor(labels), speakers=torch.tensor(speakers))


def encode_table(model, processor, table: Dataset, *, unscored: int = 0) -> Encoded:
    """The conversations of a table of `load_conversations`; the first `unscored` turns of each are not scored."""
    conversations: dict[str, list[dict]] = {}
    for row in table:
        conversations.setdefault(row["conversation_id"], []).append(row)
    front = _encode(model, processor, ([load_audio(row["audio"]) for row in rows] for rows in conversations.values()))
    labels = torch.tensor([[row["emotion"] for row in rows] for rows in conversations.values()])
    labels[:, :unscored] = -1
    # A conversation's speakers in the order of their names, which the suites give them by number.
    names = [sorted({row["speaker"] for row in rows}) for rows in conversations.values()]
    speakers = [[of.index(row["speaker"]) for row in rows] for of, rows in zip(names, conversations.values())]
    return Encoded(**front, labels=labels, speakers=torch.tensor(speakers))


@torch.no_grad()
def _encode(model, processor, recordings: Iterable[list[np.ndarray]], *, batch_size: int = 16) -> dict[str, Tensor]:
    """The tensors of `Encoded` for conversations of the same number of turns."""
    rate = model.audio_extractor(processor).sampling_rate
    received: list[Tensor] = []
    # The input of the language model is the output of the front.
    hook = model.get_decoder().register_forward_pre_hook(
        lambda decoder, args, kwargs: received.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    ids, masks, logits = [], [], []
    recordings = iter(recordings)
    try:
        while batch := list(islice(recordings, batch_size)):
            turns_each = len(batch[0])
            turns = [turn for conversation in batch for turn in conversation]
            inputs = model.prepare_turn(processor, turns, sampling_rate=rate)
            with model.disable_memory():
                logits.append(model(**inputs, logits_to_keep=1).emotion_logits)
            ids.append(inputs["input_ids"])
            masks.append(inputs["attention_mask"])
    finally:
        hook.remove()
    tensors = {
        "input_ids": _left_padded(ids, processor.tokenizer.pad_token_id),
        "attention_mask": _left_padded(masks, 0),
        "embeddings": _left_padded(received, 0),
        "host_logits": torch.cat(logits),
    }
    return {name: tensor.unflatten(0, (-1, turns_each)) for name, tensor in tensors.items()}


def _left_padded(parts: list[Tensor], value: float) -> Tensor:
    """Concatenate (rows, positions, ...) of different lengths."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat(
        [F.pad(part, (0, 0) * (part.dim() - 2) + (longest - part.shape[1], 0), value=value) for part in parts]
    )
