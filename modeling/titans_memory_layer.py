"""The memory layer that is attached to one decoder block, and the module that holds all of them."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, initialization

from .configuration_titans_mal import TitansMemoryConfig
from .memory_bounds import is_within_bounds
from .memory_step import without_autocast
from .neural_memory import NeuralMemoryState, read_and_write_memory, read_memory


@dataclass
class TitansMemoryOutput:
    """What a memory layer made of a batch of turns.

    Attributes:
        residual: (rows, tokens, hidden_size), to be added to the block's output; zero where `mask` is False.
        surprise: (rows,), mean over a turn's tokens and heads of ||M(k) - v||^2 / ||v||^2 with M as the turn began;
            NaN for a turn without tokens.
        state: the streams' state after their turns.
        is_rejected: (rows,) bool, the turns after which a memory of `step_rule="paper"` was not finite or larger than
            `memory_bounds.norm_bound`, so that the state before them stands; None for "normalized", which stays below.
    """

    residual: Tensor
    surprise: Tensor
    state: NeuralMemoryState
    is_rejected: Tensor | None = None


class TitansMemoryLayer(nn.Module):
    """Reads what earlier turns wrote at a turn's tokens, and writes the turn (Titans as a layer, arXiv 2606.08573).

    Queries, keys and values come from the RMS-normed hidden state; queries and keys are L2-normalised and values
    RMS-normalised per head, which bounds the gradient of a write. What is read is normed, gated by a sigmoid and
    projected back. The projection starts at zero, so a fresh layer adds exactly nothing.

    Args:
        config: of the memory.
        hidden_size: of the decoder block.
    """

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__()
        self.config = config
        width = config.num_heads * config.head_dim
        self.input_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        # Not `q_proj` and the like: what is meant for the host's attention (LoRA's targets) must not match the memory.
        self.query_proj = nn.Linear(hidden_size, width, bias=False)
        self.key_proj = nn.Linear(hidden_size, width, bias=False)
        self.value_proj = nn.Linear(hidden_size, width, bias=False)
        self.write_gates = nn.Linear(hidden_size, 3 * config.num_heads)  # alpha, eta, theta of each head
        self.read_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.read_gate = nn.Linear(hidden_size, width)
        self.output_proj = nn.Linear(width, hidden_size, bias=False)
        # Parameters of this very module: transformers passes over modules without any when it initialises weights.
        for index, shape in enumerate(config.matrix_shapes()):
            self.register_parameter(f"initial_memory_{index}", nn.Parameter(torch.empty(config.num_heads, *shape)))

    @property
    def initial_memory(self) -> tuple[nn.Parameter, ...]:
        """The matrices that every stream starts from, each (heads, d_in, d_out)."""
        return tuple(getattr(self, f"initial_memory_{index}") for index in range(self.config.depth))

    def initial_state(self, streams: int) -> NeuralMemoryState:
        """The learned memory that every stream starts from, with no momentum; an expanded view of the parameters."""
        weights = tuple(weight.expand(streams, *weight.shape) for weight in self.initial_memory)
        return NeuralMemoryState(weights, tuple(torch.zeros_like(weight) for weight in weights))

    def forward(
        self,
        hidden_states: Tensor,
        state: NeuralMemoryState | Callable[[TitansMemoryLayer], NeuralMemoryState],
        *,
        mask: Tensor | None = None,
        turns: Sequence[Tensor] | None = None,
        write: bool = True,
    ) -> TitansMemoryOutput:
        """Read and write a batch of turns; all that does not depend on the memory is computed for the batch at once.

        Args:
            hidden_states: (rows, tokens, hidden_size), any float dtype; computed in the dtype of the parameters.
            state: of the streams; or what gives it, called with this layer within its forward, where the parameters of
                a sharded model (FSDP) are at hand.
            mask: (rows, tokens) bool, the tokens that read and write; None = all.
            turns: `turns[t]` holds the rows that are the t-th turn of streams 0, 1, ..., and is no longer than
                `turns[t - 1]`. None: row i is the only turn of stream i.
            write: False reads only.

        Returns:
            Residual and surprise of each row, and the state of each stream after its last turn.
        """
        dtype = self.query_proj.weight.dtype
        state = state(self) if callable(state) else state
        # The state is float32 whatever the host computes in.
        with without_autocast(hidden_states):
            normed = self.input_norm(hidden_states.to(dtype))
            inputs = self._project(normed, mask)
            heard = self._turn if turns is None else functools.partial(self._walk, turns=turns)
            answers, surprise, is_rejected, state = heard(state, inputs, write=write)
            gate = torch.sigmoid(self.read_gate(normed))
            answers = self.read_norm(answers).transpose(1, 2).flatten(2)
            residual = self.output_proj(gate * answers)
        if mask is not None:
            residual = residual.masked_fill(~mask[..., None], 0)
        return TitansMemoryOutput(residual, surprise, state, is_rejected)

    def _project(self, normed: Tensor, mask: Tensor | None) -> dict[str, Tensor | None]:
        """Queries, keys, values (rows, heads, tokens, head_dim), gates (rows, heads, tokens) and the mask."""

        def heads(tensor):
            return tensor.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

        forget, momentum, step = torch.sigmoid(self.write_gates(normed)).transpose(1, 2).chunk(3, dim=1)
        return {
            "queries": F.normalize(heads(self.query_proj(normed)), dim=-1),
            "keys": F.normalize(heads(self.key_proj(normed)), dim=-1),
            "values": F.rms_norm(heads(self.value_proj(normed)), (self.config.head_dim,), eps=1e-6),
            "forget": forget,
            "momentum": momentum,
            "step": step,
            "mask": mask,
        }

    def _turn(self, state: NeuralMemoryState, inputs: dict, *, write: bool):
        """One turn of each stream: what was read, the surprise, whether the turn was rejected, the state after it."""
        surprise = _surprise(state, inputs["keys"], inputs["values"], inputs["mask"])
        if self.config.read == "history" and not write:
            return read_memory(state.weights, inputs["queries"]), surprise, None, state
        answers, after = self._read_and_write(state, inputs)
        is_good = None
        if self.config.step_rule == "paper":
            answers, after, is_good = self._keep_good(state, inputs, answers, after)
        if not write:
            return answers, surprise, None, state
        return answers, surprise, None if is_good is None else ~is_good, after

    def _read_and_write(self, state: NeuralMemoryState, inputs: dict) -> tuple[Tensor, NeuralMemoryState]:
        rules = {"chunk_size": self.config.chunk_size, "step_rule": self.config.step_rule, "read": self.config.read}
        return read_and_write_memory(state, **inputs, **rules)

    def _keep_good(self, state: NeuralMemoryState, inputs: dict, answers: Tensor, after: NeuralMemoryState):
        """What was read and the state of each stream, as if turns that leave no good state had not been written.

        A stream's state is good if it is finite and within bounds; the third result says so, (streams,) bool.
        """
        is_good = is_within_bounds((*after.weights, *after.momentum))
        if not torch.compiler.is_compiling() and not bool(is_good.all()):
            # Written once more without those turns, since no gradient comes back from numbers that are not finite.
            mask = is_good[:, None].expand(-1, inputs["keys"].shape[2])
            mask = mask if inputs["mask"] is None else mask & inputs["mask"]
            answers, after = self._read_and_write(state, inputs | {"mask": mask})
        before = read_memory(state.weights, inputs["queries"])
        return torch.where(is_good[:, None, None, None], answers, before), after.where(is_good, state), is_good

    def _walk(self, state: NeuralMemoryState, inputs: dict, *, turns: Sequence[Tensor], write: bool):
        """The streams' turns one after the other: only the memory itself is sequential."""
        answers, surprises, rejected, finished = [], [], [], []
        counts, in_order = [len(rows) for rows in turns], torch.cat(list(turns))
        # Sorted and taken apart at once, since a backward pass puts them together again at once.
        split = {n: None if t is None else t[in_order].split(counts) for n, t in inputs.items()}
        for number, count in enumerate(counts):
            finished.append(state[count:])
            of_turn = {name: None if parts is None else parts[number] for name, parts in split.items()}
            answer, surprise, is_rejected, state = self._turn(state[:count], of_turn, write=write)
            answers.append(answer)
            surprises.append(surprise)
            rejected += [] if is_rejected is None else [is_rejected]
        # Streams end in the order of their number of turns, the ones with the fewest last.
        state = NeuralMemoryState.concatenate([state, *reversed(finished)])
        order = torch.argsort(in_order)
        return (
            torch.cat(answers)[order],
            torch.cat(surprises)[order],
            torch.cat(rejected)[order] if rejected else None,
            state,
        )


def _surprise(state: NeuralMemoryState, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """(rows,), how badly the memory predicted each turn before it was written; no gradient flows through it."""
    with torch.no_grad():
        error = (read_memory(state.weights, keys) - values).square().sum(-1)
        # Values are RMS-normed; only those of silence are smaller than one.
        ratio = (error / values.square().sum(-1).clamp(min=1.0)).mean(1)
        if mask is None:
            return ratio.mean(-1)
        return ratio.masked_fill(~mask, 0).sum(-1) / mask.sum(-1)


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """A name of a memory's `state_dict`, the same in float32 and float64."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class TitansMemory(PreTrainedModel):
    """All memory layers of a model, `layers[i]` for the block `config.layers[i]`.

    One module of its own, so that transformers initialises it, PEFT can train and save it as one, and it stays float32
    whatever the host is cast to.

    Args:
        config: of the memory.
        hidden_size: of the host's decoder blocks.
    """

    config_class = TitansMemoryConfig
    base_model_prefix = ""
    _no_split_modules = ("TitansMemoryLayer",)
    # The host's attention implementation is passed on to every child that is a model.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True

    def __init__(self, config: TitansMemoryConfig, hidden_size: int):
        super().__init__(config)
        self.layers = nn.ModuleList(TitansMemoryLayer(config, hidden_size) for _ in config.layers)
        self._fingerprint: tuple[list, str] = ([], "")
        self.post_init()

    def fingerprint(self) -> str | None:
        """A name of the present weights, to which the states that they write belong; None where they are sharded."""
        parameters = list(self.parameters())
        if any(parameter.is_meta or hasattr(parameter, "full_tensor") for parameter in parameters):
            return None
        # Hashing is left for when something changed. A version counts in-place changes, but not those of a fused
        # optimiser or through `.data`: sums show these.
        versions = [0 if p.is_inference() else p._version for p in parameters]
        present = [versions, torch.stack([p.detach().sum() for p in parameters]).tolist()]
        if self._fingerprint[0] != present:
            self._fingerprint = (present, weights_fingerprint(self.state_dict()))
        return self._fingerprint[1]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.RMSNorm):
            initialization.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        elif isinstance(module, TitansMemoryLayer):
            initialization.zeros_(module.output_proj.weight)
            initialization.zeros_(module.write_gates.weight)
            initialization.copy_(module.write_gates.bias, self._gate_biases())
            for weight in module.initial_memory:
                initialization.normal_(weight, std=weight.shape[-2] ** -0.5)
            # The memory answers nothing before something is written.
            initialization.zeros_(module.initial_memory[-1])

    def _gate_biases(self) -> Tensor:
        """Biases at which the gates have their initial values, (3 * num_heads,)."""
        forget = -math.expm1(-math.log(2) / self.config.forget_half_life)
        gates = (forget, self.config.initial_momentum, self.config.initial_step)
        return torch.tensor([math.log(gate / (1 - gate)) for gate in gates]).repeat_interleave(self.config.num_heads)

    def _apply(self, fn, recurse=True):
        # `model.half()` and the like must not round the memory; devices and float64 go through.
        def keep_precision(tensor):
            moved = fn(tensor)
            rounded = tensor.is_floating_point() and moved.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(moved.device) if rounded else moved

        return super()._apply(keep_precision, recurse)
