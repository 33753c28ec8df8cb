"""Baselines: normalised features, history in the prompt, and a LoRA that is trained during inference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from models import HIDDEN_SIZE, UtteranceOnly, pool
from torch import Tensor, nn
from torch.nn import functional as F
from turn_features import Turns


class SpeakerNormalised(UtteranceOnly):
    """Pitch and level, z-normalised by the earlier turns of the speaker; it is given the speaker.

    The deviation includes one more turn of deviation 1, that of the population; a speaker's first turn is unchanged.
    """

    def forward(self, turns: Turns) -> Tensor:
        conversations, count = turns.shape
        voice = turns.features[..., :2]
        pooled = pool(voice, turns.mask).view(conversations, count, 2)
        same = turns.speakers[:, :, None] == turns.speakers[:, None]
        earlier = (same & torch.ones(count, count, dtype=torch.bool).tril(-1)).float()
        number = earlier.sum(-1, keepdim=True)
        mean = earlier @ pooled / number.clamp(min=1)
        variance = earlier @ pooled.square() / number.clamp(min=1) - mean.square()
        deviation = ((1 + number * variance.clamp(min=0)) / (1 + number)).sqrt()
        voice = (voice - mean.view(-1, 1, 2)) / deviation.view(-1, 1, 2)
        hidden = self.host(torch.cat([voice, turns.features[..., 2:]], -1))
        return self.readout(pool(hidden, turns.mask))


class Block(nn.Module):
    """A transformer block (pre-norm) over all tokens of a conversation; each turn sees itself and `window` before it.

    Args:
        window: turns before its own that a token attends to.
        heads: of the attention, each with a bias for how many turns ago a token was.
    """

    def __init__(self, window: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(HIDDEN_SIZE), nn.RMSNorm(HIDDEN_SIZE)
        self.into = nn.Linear(HIDDEN_SIZE, 3 * HIDDEN_SIZE)
        self.out = nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE)
        self.turns_ago = nn.Parameter(torch.zeros(heads, window + 1))
        self.mlp = nn.Sequential(
            nn.Linear(HIDDEN_SIZE, 2 * HIDDEN_SIZE), nn.GELU(), nn.Linear(2 * HIDDEN_SIZE, HIDDEN_SIZE)
        )

    def forward(self, states: Tensor, mask: Tensor, turn_of_token: Tensor) -> Tensor:
        """(conversations, tokens, hidden_size); mask (conversations, tokens); the turn of each token, (tokens,)."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.into(self.attention_norm(states)).chunk(3, -1)
        )
        ago = turn_of_token[:, None] - turn_of_token
        is_seen = (ago >= 0) & (ago < self.turns_ago.shape[1])
        bias = self.turns_ago[:, ago.clamp(0, self.turns_ago.shape[1] - 1)]
        bias = bias.masked_fill(~(is_seen & mask[:, None, None]), -1e4)
        answers = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        states = states + self.out(answers.transpose(1, 2).flatten(2))
        return states + self.mlp(self.mlp_norm(states))


class PromptHistory(UtteranceOnly):
    """Earlier turns are in the prompt: a transformer of two blocks attends to their tokens.

    Its first block sees the turn alone and its second the earlier ones, so that a turn depends on exactly that many.

    Args:
        turns: before the present one that the prompt holds.
    """

    def __init__(self, *, turns: int):
        super().__init__()
        self.blocks = nn.ModuleList([Block(0), Block(turns)])

    def remember(self, hidden: Tensor, turns: Turns) -> Tensor:
        conversations, count = turns.shape
        states, mask = hidden.view(conversations, -1, HIDDEN_SIZE), turns.mask.view(conversations, -1)
        turn_of_token = torch.arange(count).repeat_interleave(hidden.shape[1])
        for block in self.blocks:
            states = block(states, mask, turn_of_token)
        return states.view_as(hidden) - hidden


class TemporaryLora(UtteranceOnly):
    """A low-rank change of the readout that is trained during inference, after arXiv 2507.09076.

    After each turn, one step of gradient descent makes the turn's own prediction more likely; a conversation starts
    without a change. The paper describes its training in words only; this is the closest form that a readout
    allows. Trained as `UtteranceOnly`; the step size is then chosen on separate conversations.

    Args:
        rank: of the change.
        steps: the step sizes to choose from.
    """

    def __init__(self, *, rank: int = 4, steps: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0)):
        super().__init__()
        self.steps = steps
        self.step = 0.0
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("down", torch.randn(rank, HIDDEN_SIZE, generator=generator) / HIDDEN_SIZE**0.5)

    def forward(self, turns: Turns) -> Tensor:
        return super().forward(turns) if self.training else self.adapt(turns, self.step)

    @torch.no_grad()
    def choose_step(self, turns: Turns) -> None:
        """Set `step` to the one with the most scored turns right."""
        emotions, is_scored = turns.emotions.flatten(), turns.is_scored.flatten()
        right = [(self.adapt(turns, step).argmax(-1) == emotions)[is_scored].sum() for step in self.steps]
        self.step = self.steps[int(torch.stack(right).argmax())]

    @torch.enable_grad()
    def adapt(self, turns: Turns, step: float) -> Tensor:
        """(rows, emotions) logits, each turn after the LoRA was trained on those before it."""
        conversations = turns.shape[0]
        pooled = pool(self.host(turns.features), turns.mask)
        first, activation, second = self.readout
        down = self.down.expand(conversations, -1, -1)
        up = torch.zeros(conversations, first.out_features, down.shape[1])
        logits = torch.zeros(len(pooled), second.out_features)
        for rows in turns.in_order():
            down, up = down.detach().requires_grad_(), up.detach().requires_grad_()
            change = (up @ (down @ pooled[rows, :, None])).squeeze(-1)
            scores = second(activation(first(pooled[rows]) + change))
            # A sum, since each conversation has its own change.
            loss = F.cross_entropy(scores, scores.argmax(-1), reduction="sum")
            down_slope, up_slope = torch.autograd.grad(loss, (down, up))
            down, up = down - step * down_slope, up - step * up_slope
            logits[rows] = scores.detach()
        return logits
