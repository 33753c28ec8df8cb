"""The memory layer that is attached to one decoder block, and the module that holds all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization

from .configuration_titans_memory import TitansMemoryConfig
from .deprecation import warn_renamed
from .memory_chunks import MemoryTokens
from .memory_gradients import l2_normalize, quadratic_features, rms_normalize, scaled_rms_normalize, without_autocast
from .memory_layer import TitansMemoryOutput, check_rows, surprise_of_turns
from .memory_state import NeuralMemoryState
from .model_identity import FingerprintOfModule
from .neural_memory import process_turns
from .voice_memory_layer import VoiceMemoryLayer


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` over the last dimension, with scales; once differentiable.

    Args:
        width: size of the last dimension.
        eps: added to the mean square.
    """

    eps: float

    def __init__(self, width: int, *, eps: float = 1e-6):
        super().__init__(width, eps=eps)

    def forward(self, tensor: Tensor) -> Tensor:
        return scaled_rms_normalize(tensor, self.weight, self.eps)


class TitansMemoryLayer(nn.Module):
    """At a turn's tokens, reads what earlier turns wrote, and writes the turn (Titans as a layer, arXiv 2606.08573).

    Queries, keys and values come from the RMS-normed hidden state; queries and keys are L2-normalised and values
    RMS-normalised per head, which bounds the gradient of a write. The retrieved values are normalised, gated by a
    sigmoid and projected back. The projection starts at zero, so an untrained layer adds exactly zero.

    Args:
        config: configuration of the memory.
        hidden_size: hidden size of the decoder block.
    """

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__()
        self.config = config
        width = config.num_heads * config.head_dim
        self.input_norm = RMSNorm(hidden_size, eps=1e-6)
        # Not named `q_proj` etc., so that LoRA targets for the host's attention do not match the memory.
        self.query_proj = nn.Linear(hidden_size, width, bias=False)
        self.key_proj = nn.Linear(hidden_size, width, bias=False)
        self.value_proj = nn.Linear(hidden_size, width, bias=False)
        self.write_gates = nn.Linear(hidden_size, 3 * config.num_heads)  # alpha, eta, theta of each head
        self.read_norm = RMSNorm(config.head_dim, eps=1e-6)
        self.read_gate = nn.Linear(hidden_size, width)
        self.output_proj = nn.Linear(width, hidden_size, bias=False)
        # Direct parameters of this module: transformers initialises only modules that have some.
        for index, shape in enumerate(config.matrix_shapes()):
            self.register_parameter(f"initial_memory_{index}", nn.Parameter(torch.empty(config.num_heads, *shape)))

    @property
    def initial_memory(self) -> tuple[nn.Parameter, ...]:
        """The initial matrices of every stream, each (heads, d_in, d_out)."""
        return tuple(getattr(self, f"initial_memory_{index}") for index in range(self.config.depth))

    @property
    def state_like(self) -> Tensor:
        """A tensor with the device and dtype of a state."""
        return self.initial_memory[0]

    def initial_state(self, streams: int) -> NeuralMemoryState:
        """The learned initial memory for each stream, with zero momentum; an expanded view of the parameters."""
        weights = tuple(weight.expand(streams, *weight.shape) for weight in self.initial_memory)
        return NeuralMemoryState(weights, tuple(torch.zeros_like(weight) for weight in weights))

    def forward(
        self,
        hidden_states: Tensor,
        state: NeuralMemoryState | Callable[[TitansMemoryLayer], NeuralMemoryState],
        *,
        lengths: Tensor | None = None,
        batch_sizes: Sequence[int] | None = None,
        write: bool = True,
        turns: Sequence[int] | None = None,
    ) -> TitansMemoryOutput:
        """Read and write a batch of turns; everything that does not depend on the memory is computed at once.

        Args:
            hidden_states: (rows, tokens, hidden_size), any float dtype; computed in the dtype of the parameters.
            state: of the streams; or a function of this layer that returns it, called within forward, where the
                parameters of a sharded model (FSDP) are available.
            lengths: (rows,) how many tokens of each row, from the first, read and write; None = all.
            batch_sizes: the number of streams with a first turn, a second turn, ...; non-increasing, as in torch's
                packed sequences: the rows are all first turns, then the second turns of the first streams, and so on.
                None: each row is the only turn of a stream.
            write: False reads only.
            turns: deprecated name of `batch_sizes`.

        Returns:
            Residual and surprise of each row, and the state of each stream after its last turn.

        Raises:
            ValueError: for `lengths` or `batch_sizes` that do not fit the rows, or a state of a different batch size.
        """
        if turns is not None:
            warn_renamed("TitansMemoryLayer's turns", "batch_sizes")
            batch_sizes = turns
        dtype = self.query_proj.weight.dtype
        state = state(self) if callable(state) else state
        batch_sizes = [len(hidden_states)] if batch_sizes is None else list(batch_sizes)
        check_rows(hidden_states, state, lengths, batch_sizes)
        written = None
        if lengths is not None:
            written = torch.arange(hidden_states.shape[1], device=lengths.device) < lengths[:, None]
            hidden_states = hidden_states.masked_fill(~written[..., None], 0)
        # The state is float32, whatever dtype the host computes in.
        with without_autocast(hidden_states):
            normed = self.input_norm(hidden_states.to(dtype))
            tokens = self._project(normed, written)
            config = self.config
            processed = process_turns(
                state, tokens, batch_sizes,
                read=config.read, chunk_size=config.chunk_size, step_rule=config.step_rule,
                step_bound=cast(str, config.step_bound), write=write,
            )  # fmt: skip
            gate = torch.sigmoid(self.read_gate(normed))
            retrieved = self.read_norm(processed.retrieved.transpose(1, 2)).flatten(2)
            residual = self.output_proj((gate * retrieved).to(dtype))
        if written is not None:
            # Mask explicitly: these rows are zero, but the gradient of a norm at zero is huge.
            residual = residual.masked_fill(~written[..., None], 0)
        surprise = surprise_of_turns(processed.errors, tokens.values, written)
        return TitansMemoryOutput(residual, surprise, processed.state, processed.is_rejected)

    def _project(self, normed: Tensor, written: Tensor | None) -> MemoryTokens:
        # The memory is at least float32, whatever the dtype of the parameters.
        dtype = torch.promote_types(normed.dtype, torch.float32)
        queries, keys = self._queries_and_keys(normed, dtype)
        values = rms_normalize(self._heads(self.value_proj(normed), dtype))
        forget, decay, step = torch.sigmoid(self.write_gates(normed).to(dtype)).transpose(1, 2).chunk(3, dim=1)
        return MemoryTokens(queries, keys, values, forget, decay, step, written)

    def _queries_and_keys(self, normed: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Queries and keys of the tokens, (rows, heads, tokens, d_in); zero where `normed` is zero."""
        projected = self.query_proj(normed), self.key_proj(normed)
        queries, keys = [l2_normalize(self._heads(tensor, dtype)) for tensor in projected]
        if self.config.feature_map == "quadratic":
            queries, keys = quadratic_features(queries), quadratic_features(keys)
        return queries, keys

    def _heads(self, projected: Tensor, dtype: torch.dtype) -> Tensor:
        """(rows, tokens, width) -> (rows, heads, tokens, head_dim)."""
        return projected.to(dtype).unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)


def make_layer(config: TitansMemoryConfig, layer_idx: int, hidden_size: int) -> TitansMemoryLayer | VoiceMemoryLayer:
    """The `layer_idx`-th memory layer of a configuration, with uninitialised weights."""
    is_voice = config.layers[layer_idx] in config.voice_layers
    return (VoiceMemoryLayer if is_voice else TitansMemoryLayer)(config, hidden_size)


class TitansMemory(PreTrainedModel):
    """All memory layers of a model, `layers[i]` for the block `config.layers[i]`.

    A separate module, so that transformers initialises it, PEFT can train and save it as a unit, and it stays float32
    if the host is cast.

    Args:
        config: configuration of the memory.
        hidden_size: hidden size of the host's decoder blocks.
    """

    config: TitansMemoryConfig
    config_class = TitansMemoryConfig
    base_model_prefix = ""
    _no_split_modules = ("TitansMemoryLayer", "VoiceMemoryLayer")  # type: ignore[assignment]  # only read
    # transformers passes the host's attention implementation on to every child model.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__(config)
        self.layers = nn.ModuleList(make_layer(config, index, hidden_size) for index in range(len(config.layers)))
        self._fingerprint = FingerprintOfModule()
        self.post_init()

    def requires_grad_(self, requires_grad: bool = True) -> TitansMemory:
        """As for any module, except that voice memory layers stay frozen, since they are fitted and not trained."""
        super().requires_grad_(requires_grad)
        for layer in self.layers:
            if isinstance(layer, VoiceMemoryLayer):
                layer.requires_grad_(False)
        return self

    def fingerprint(self) -> str | None:
        """Fingerprint of the present weights, to which the states that they write belong.

        None if unknown: in training, where they change, on the meta device, or if sharded.
        """
        return None if self.training else self._fingerprint.of(self)

    def train(self, mode: bool = True) -> TitansMemory:
        if mode:
            # Training may change weights in ways that are not detected, and makes the saved fingerprint invalid.
            self._fingerprint.forget()
            self.config.weights_fingerprint = None
        return super().train(mode)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.RMSNorm):
            initialization.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        elif isinstance(module, VoiceMemoryLayer):
            for parameter in (module.voice_mean, module.voice_gain, module.emotion_means):
                initialization.zeros_(parameter)
            initialization.ones_(module.voice_scale)
        elif isinstance(module, TitansMemoryLayer):
            initialization.zeros_(module.output_proj.weight)
            initialization.zeros_(module.write_gates.weight)
            initialization.copy_(module.write_gates.bias, self._gate_biases())
            for weight in module.initial_memory:
                initialization.normal_(weight, std=weight.shape[-2] ** -0.5)
            # A memory that nothing was written to returns zero.
            initialization.zeros_(module.initial_memory[-1])

    def _gate_biases(self) -> Tensor:
        """Biases that give the gates their initial values, (3 * num_heads,)."""
        forget = -math.expm1(-math.log(2) / self.config.forget_half_life)
        gates = (forget, self.config.initial_momentum, self.config.initial_step)
        return torch.tensor([math.log(gate / (1 - gate)) for gate in gates]).repeat_interleave(self.config.num_heads)

    def _apply(self, fn, recurse=True):
        # `model.half()` and the like must not round the memory; moves between devices and float64 are applied.
        def keep_precision(tensor):
            moved = fn(tensor)
            rounded = tensor.is_floating_point() and moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device) if rounded else moved

        return super()._apply(keep_precision, recurse)
