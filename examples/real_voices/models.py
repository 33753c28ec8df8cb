"""The models of composed dialogues: one readout of a turn, and different things that history adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from dialogues import Dialogue
from torch import Tensor, nn

from titans_mal import TitansMemoryConfig
from titans_mal.modeling.voice_memory_layer import VoiceMemoryLayer


@dataclass
class Batch:
    """Dialogues, the longest first.

    Attributes:
        utterances, speakers: (dialogues, turns) int; -1 beyond a dialogue's end.
        hidden: (utterances of the corpus, width), what the host makes of each.
        emotions: (utterances of the corpus,) int.
    """

    utterances: Tensor
    speakers: Tensor
    hidden: Tensor = field(repr=False)
    emotions: Tensor = field(repr=False)

    @classmethod
    def of(cls, dialogues: Sequence[Dialogue], hidden: Tensor, emotions: Tensor) -> Batch:
        order = sorted(range(len(dialogues)), key=lambda index: -len(dialogues[index]))
        longest = len(dialogues[order[0]])
        utterances, speakers = np.full((2, len(dialogues), longest), -1)
        for row, index in enumerate(order):
            utterances[row, : len(dialogues[index])] = dialogues[index].utterances
            speakers[row, : len(dialogues[index])] = dialogues[index].speakers
        return cls(torch.from_numpy(utterances), torch.from_numpy(speakers), hidden, emotions)

    @property
    def mask(self) -> Tensor:
        """(dialogues, turns) bool, the turns that there are."""
        return self.utterances >= 0

    @property
    def turns(self) -> Tensor:
        """(dialogues, turns, width), the hidden state of each turn."""
        return self.hidden[self.utterances.clamp(min=0)]

    @property
    def same_speaker(self) -> Tensor:
        """(dialogues, turns, turns) bool, whether the second turn is an earlier one of the first one's speaker."""
        is_same = self.speakers[:, :, None] == self.speakers[:, None]
        return (is_same & self.mask[:, None]).tril(-1)

    def streams(self, *, by_speaker: bool) -> list[Tensor]:
        """The first turns of all streams, then the second ones, ...: (streams, 2) of dialogue and turn each."""
        of_stream: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for row, turn in self.mask.nonzero().tolist():
            speaker = int(self.speakers[row, turn]) if by_speaker else 0
            of_stream.setdefault((row, speaker), []).append((row, turn))
        streams = sorted(of_stream.values(), key=len, reverse=True)
        return [torch.tensor([s[t] for s in streams if t < len(s)]) for t in range(len(streams[0]))]


class Utterance(nn.Module):
    """Scores each turn by itself; other models differ in `remember`.

    Args:
        width: of the hidden states.
        labels: how many emotions.
    """

    def __init__(self, width: int, labels: int):
        super().__init__()
        self.readout = nn.Linear(width, labels)

    def forward(self, batch: Batch) -> Tensor:
        """(dialogues, turns, labels) logits."""
        return self.readout(self.turns(batch))

    def turns(self, batch: Batch) -> Tensor:
        """(dialogues, turns, width), the hidden states with what history adds."""
        return batch.turns + self.remember(batch)

    def remember(self, batch: Batch) -> Tensor | float:
        """The residual that depends on the history, (dialogues, turns, width); it is added to the hidden states."""
        return 0.0


class RunningMean(Utterance):
    """Takes off the mean of the speaker's earlier turns, who is given, shrunk by ``n / (n + shrinkage)``."""

    def __init__(self, width: int, labels: int, *, shrinkage: float):
        super().__init__(width, labels)
        self.shrinkage = shrinkage

    def remember(self, batch: Batch) -> Tensor:
        earlier = batch.same_speaker.to(batch.hidden)
        return -(earlier @ self.voices(batch)) / (earlier.sum(-1, keepdim=True) + self.shrinkage)

    def voices(self, batch: Batch) -> Tensor:
        """(dialogues, turns, width), what each turn says about its speaker's usual voice."""
        return batch.turns


class Oracle(RunningMean):
    """Takes off the mean of the speaker's earlier turns without their emotions' part, which the true labels give.

    It knows what `Memory` estimates, the speaker and the emotions, so it shows what is lost by estimating them.

    Args:
        layer: fitted to the training speakers, with the mean of all turns and the effect of each emotion on it.
    """

    def __init__(self, width: int, labels: int, *, shrinkage: float, layer: VoiceMemoryLayer):
        super().__init__(width, labels, shrinkage=shrinkage)
        self.layer = layer

    def voices(self, batch: Batch) -> Tensor:
        effects = self.layer.voice_scale * self.layer.emotion_means
        return batch.turns - self.layer.voice_mean - effects[batch.emotions[batch.utterances.clamp(min=0)]]


class Attention(Utterance):
    """Attends to the last turns, whoever spoke (one head); what is found is added."""

    def __init__(self, width: int, labels: int, *, turns: int = 8, head_dim: int = 64):
        super().__init__(width, labels)
        self.reach = turns
        self.query, self.key, self.value = (nn.Linear(width, head_dim) for _ in range(3))
        self.output = nn.Linear(head_dim, width, bias=False)
        self.dropout = nn.Dropout(0.5)
        nn.init.zeros_(self.output.weight)

    def remember(self, batch: Batch) -> Tensor:
        turns = self.dropout(batch.turns)
        scores = self.query(turns) @ self.key(turns).mT / self.query.out_features**0.5
        count = torch.arange(turns.shape[1])
        distance = count[:, None] - count
        is_seen = (distance >= 1) & (distance <= self.reach)
        weights = scores.masked_fill(~is_seen, -torch.inf).softmax(-1).nan_to_num(0.0)
        return self.output(weights @ self.value(turns))


class Memory(Utterance):
    """Reads and writes a `VoiceMemoryLayer`, fitted to the training speakers before the readout is trained.

    Args:
        memory: fields of `TitansMemoryConfig`; with scope "speaker" the speaker is given.

    Attributes:
        layer: its layer.
    """

    def __init__(self, width: int, labels: int, **memory):
        super().__init__(width, labels)
        config = TitansMemoryConfig(layers=[0], voice_layers=[0], voice_emotions=labels, **memory)
        self.layer = VoiceMemoryLayer(config, width)

    def remember(self, batch: Batch) -> Tensor:
        streams = batch.streams(by_speaker=self.layer.config.scope == "speaker")
        rows = torch.cat(streams)
        turns = batch.turns[rows[:, 0], rows[:, 1]]
        state = self.layer.initial_state(len(streams[0]))
        output = self.layer(turns[:, None], state, batch_sizes=[len(stream) for stream in streams])
        return self._scatter(batch, rows, output.residual[:, 0])

    def without_history(self, batch: Batch) -> Tensor:
        """Logits where the memory is empty before every turn."""
        rows = batch.mask.nonzero()
        turns = batch.turns[rows[:, 0], rows[:, 1]]
        output = self.layer(turns[:, None], self.layer.initial_state(len(turns)), write=False)
        return self.readout(batch.turns + self._scatter(batch, rows, output.residual[:, 0]))

    def with_other_history(self, batch: Batch, partners: Batch) -> Tensor:
        """Logits where before turn t the memory holds the first t turns of a partner, and none of the dialogue.

        Args:
            partners: a dialogue for each row of `batch`, with as many turns at least.
        """
        state, added = self.layer.initial_state(len(batch.utterances)), torch.zeros_like(batch.turns)
        for turn in range(batch.utterances.shape[1]):
            added[:, turn] = self.layer(batch.turns[:, turn, None], state, write=False).residual[:, 0]
            state = self.layer(partners.turns[:, turn, None], state).state
        return self.readout(batch.turns + added)

    @staticmethod
    def _scatter(batch: Batch, rows: Tensor, residual: Tensor) -> Tensor:
        return torch.zeros_like(batch.turns).index_put((rows[:, 0], rows[:, 1]), residual)


def decode_transitions(
    logits: Tensor, mask: Tensor, transitions: Tensor, *, weight: float, history: Tensor | None = None
) -> Tensor:
    """Probabilities of single turns with a dialogue's transitions of emotions, forward only.

    The belief of a turn is ``p(e | x) (b T)(e)`` with b the belief of the turn before; a turn is scored by
    ``p(e | x) ((b T)(e) / prior(e))^weight``, since the readout is trained on balanced emotions.

    Args:
        logits: (dialogues, turns, labels) of single turns.
        mask: (dialogues, turns) bool.
        transitions: (labels, labels), probability of the column after the row.
        weight: of the transitions; 0 leaves the turns as they are.
        history: logits of the turns that the beliefs come from, of the same shape; None: `logits`.

    Returns:
        (dialogues, turns, labels) scores, not normalised.
    """
    probabilities = logits.softmax(-1)
    earlier = probabilities if history is None else history.softmax(-1)
    prior = torch.linalg.matrix_power(transitions, 64).mean(0)
    belief = prior.expand_as(probabilities[:, 0])
    scores = []
    for turn in range(mask.shape[1]):
        expected = belief @ transitions if turn else belief
        scores.append(probabilities[:, turn] * (expected / prior) ** weight)
        belief = earlier[:, turn] * expected
        belief = belief / belief.sum(-1, keepdim=True)
    return torch.stack(scores, 1)
