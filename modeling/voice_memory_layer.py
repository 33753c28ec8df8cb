"""A voice memory: recalls a speaker's usual voice from earlier turns and subtracts it from the present turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .configuration_titans_memory import TitansMemoryConfig
from .memory_chunks import MemoryTokens
from .memory_gradients import l2_normalize, quadratic_features, without_autocast
from .memory_layer import TitansMemoryOutput, check_rows, mean_of_turns, surprise_of_turns
from .memory_state import NeuralMemoryState
from .neural_memory import process_turns


class VoiceMemoryLayer(nn.Module):
    """Subtracts a speaker's usual voice from a turn; the voice itself identifies the speaker.

    A turn is one key-value pair. With ``h = (mean of the hidden states at its audio tokens - mean) / scale``,

        v = [h - sum_e p_e(h) m_e, 1]      k = phi([a, sqrt(o)] / sqrt(1 + o))      M <- M + theta k^T (v - k M)

    where p are the emotion probabilities of a linear classifier and m the effect of each emotion on the mean, so that
    v holds the voice without its emotion; ``a = l2(A h + b)`` represents the speaker, and phi are all monomials of
    degree 2, so that the similarity of two turns is ``((<a, a'> + o) / (1 + o))^2``. The update is the gradient step
    of `neural_memory` on ``||k M - v||^2`` with ``step_rule="normalized"``, no momentum and no forgetting. A turn
    recalls ``[r, c] = k M`` from earlier turns: r is the usual voice of similar-sounding turns, and c, the recalled 1,
    the amount of evidence for it. The residual at every audio token of the turn is

        -gain * scale * r / (c + theta * shrinkage)

    An empty memory recalls zero, so a first turn is processed exactly as by the host, trained or not. The residual
    depends on the history and on the speaker's voice, not on the other content of the turn.

    No part is trained by gradients: statistics, keys and classifier are fitted to turns of known speakers
    (`titans_mal.training.fit_voice_memory`). Until then the gain is zero, and the layer adds zero.

    With ``scope="speaker"`` each speaker has a separate stream, and all keys are the same.

    Args:
        config: configuration of the memory; its `voice_*` fields give theta, o, the shrinkage and the widths.
        hidden_size: hidden size of the decoder block.
    """

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size
        self.speaker_proj = nn.Linear(hidden_size, config.voice_key_dim)
        self.emotion_proj = nn.Linear(hidden_size, config.voice_emotions)
        self.emotion_means = nn.Parameter(torch.zeros(config.voice_emotions, hidden_size))
        self.voice_mean = nn.Parameter(torch.zeros(hidden_size))
        self.voice_scale = nn.Parameter(torch.ones(hidden_size))
        self.voice_gain = nn.Parameter(torch.zeros(1))
        self.requires_grad_(False)

    @property
    def state_like(self) -> Tensor:
        """A tensor with the device and dtype of a state."""
        return self.voice_mean

    def initial_state(self, streams: int) -> NeuralMemoryState:
        """An empty memory for each stream."""
        (shape,) = self.config.voice_matrix_shapes(self.hidden_size)
        zeros = self.voice_mean.new_zeros(streams, 1, *shape)
        return NeuralMemoryState((zeros,), (zeros,))

    def forward(
        self,
        hidden_states: Tensor,
        state: NeuralMemoryState | Callable[[VoiceMemoryLayer], NeuralMemoryState],
        *,
        lengths: Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
        write: bool = True,
    ) -> TitansMemoryOutput:
        """Read and write a batch of turns; arguments, return value and errors as `TitansMemoryLayer.forward`.

        The surprise is that of the turn's single token.
        """
        state = state(self) if callable(state) else state
        batch_sizes = [len(hidden_states)] if batch_sizes is None else list(batch_sizes)
        check_rows(hidden_states, state, lengths, batch_sizes)
        with without_autocast(hidden_states):
            tokens = self._tokens(self.pool(hidden_states, lengths), lengths)
            processed = process_turns(
                state, tokens, batch_sizes, read="history", chunk_size=1, step_rule="normalized", write=write
            )
            recalled, known = processed.retrieved[:, 0, 0].split([self.hidden_size, 1], dim=-1)
            shrunk = recalled / (known.clamp(min=0) + self.config.voice_step * self.config.voice_shrinkage)
            residual = (-self.voice_gain * self.voice_scale * shrunk).to(self.voice_mean.dtype)
        residual = residual[:, None].expand(-1, hidden_states.shape[1], -1)
        if lengths is not None:
            written = torch.arange(hidden_states.shape[1], device=lengths.device) < lengths[:, None]
            residual = residual.masked_fill(~written[..., None], 0)
        surprise = surprise_of_turns(processed.errors, tokens.values, tokens.written)
        return TitansMemoryOutput(residual, surprise, processed.state, processed.is_rejected)

    def pool(self, hidden_states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The mean of a turn's hidden states, standardised.

        Args:
            hidden_states: (rows, tokens, hidden_size).
            lengths: (rows,) how many tokens of each row, from the first, are averaged; None = all.

        Returns:
            (rows, hidden_size) in the dtype of the parameters; undefined for a row without tokens.
        """
        mean = mean_of_turns(hidden_states.to(self.voice_mean.dtype), lengths).to(self.voice_mean.dtype)
        return (mean - self.voice_mean) / self.voice_scale

    def _tokens(self, pooled: Tensor, lengths: Tensor | None) -> MemoryTokens:
        """One token per turn."""
        dtype = torch.promote_types(pooled.dtype, torch.float32)
        keys = self._keys(pooled).to(dtype)[:, None, None]
        voices = pooled - self.emotion_proj(pooled).softmax(-1) @ self.emotion_means
        values = torch.cat([voices, torch.ones_like(voices[:, :1])], dim=-1).to(dtype)[:, None, None]
        written = None
        if lengths is not None:
            # A turn without audio is not written; its key and value must be zero.
            written = (lengths > 0)[:, None]
            keys, values = (tensor.masked_fill(~written[..., None, None], 0) for tensor in (keys, values))
        zero = keys.new_zeros(len(keys), 1, 1)
        return MemoryTokens(keys, keys, values, zero, zero, zero + self.config.voice_step, written)

    def _keys(self, pooled: Tensor) -> Tensor:
        """(rows, d_in) unit vectors."""
        voices = l2_normalize(self.speaker_proj(pooled))
        if self.config.scope == "speaker":
            voices = torch.zeros_like(voices)
        constant = torch.full_like(voices[:, :1], self.config.voice_key_offset**0.5)
        return quadratic_features(l2_normalize(torch.cat([voices, constant], dim=-1)))
