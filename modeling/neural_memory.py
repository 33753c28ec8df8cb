"""The mathematics of the Titans neural memory (Behrouz, Zhong, Mirrokni 2025, arXiv 2501.00663, section 3).

The memory is an MLP without biases, ``M(x) = SiLU(... SiLU(x W_1) ...) W_L``, one per stream and head. It is written
by gradient descent with momentum and forgetting on the loss ``l(M; k, v) = ||M(k) - v||^2``. For written token i

    S_i = eta_i S_{i-1} - theta_i grad l(M_chunk; k_i, v_i)
    M_i = (1 - alpha_i) M_{i-1} + S_i                                       (arXiv 2501.00663, equations 9, 10 and 13)

with ``M_chunk`` the weights at the start of the token's chunk; ``chunk_size=1`` is the paper's recurrence exactly.

Nothing here walks over tokens. The gradients of a chunk are outer products taken at the same weights, and the
recurrence is linear in them, so the state after a chunk is a weighted sum that one matrix product gives. All functions
are plain differentiable tensor code: training goes through the update, and they run under `inference_mode`,
`torch.compile` and checkpointing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .memory_bounds import SMALLEST_ENTRY, limit_norm, without_tiny
from .memory_chunks import MemoryChunk, MemoryChunks


STEP_RULES = ("normalized", "paper")
READ_ORDERS = ("history", "chunk")

# The largest slope of SiLU is 1.0998, so 1.21 bounds its square in the curvature bound of a hidden matrix.
_SILU_SLOPE_SQUARED = 1.21


@dataclass
class NeuralMemoryState:
    """Weights and momentum of one memory layer's streams.

    Attributes:
        weights: one tensor per matrix of the MLP, each (streams, heads, d_in, d_out); float32, or float64 for float64
            inputs.
        momentum: the same shapes and dtype: the running sum S of the surprise.
    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]

    def map(self, function) -> NeuralMemoryState:
        """The state with `function` applied to each of its tensors."""
        return NeuralMemoryState(tuple(map(function, self.weights)), tuple(map(function, self.momentum)))

    def __getitem__(self, streams) -> NeuralMemoryState:
        """The state of some streams: a slice or a tensor of indices."""
        return self.map(lambda tensor: tensor[streams])

    def where(self, condition: Tensor, other: NeuralMemoryState) -> NeuralMemoryState:
        """The streams of this state where `condition` (streams,) holds, and those of `other` elsewhere."""
        condition = condition[:, None, None, None]
        mine, theirs = (*self.weights, *self.momentum), (*other.weights, *other.momentum)
        chosen = [torch.where(condition, a, b) for a, b in zip(mine, theirs)]
        return NeuralMemoryState(tuple(chosen[: len(self.weights)]), tuple(chosen[len(self.weights) :]))

    @staticmethod
    def concatenate(states: Sequence[NeuralMemoryState]) -> NeuralMemoryState:
        """The streams of all states, one after the other."""
        return NeuralMemoryState(
            tuple(map(torch.cat, zip(*(state.weights for state in states)))),
            tuple(map(torch.cat, zip(*(state.momentum for state in states)))),
        )


def read_memory(weights: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """What the memory answers to `queries`: ``M(q)``.

    Args:
        weights: matrices of the memory, each (streams, heads, d_in, d_out).
        queries: (streams, heads, tokens, head_dim).

    Returns:
        (streams, heads, tokens, head_dim), in the dtype of the weights.
    """
    return _pass(weights, queries.to(weights[0].dtype))[1][-1]


def write_memory(
    state: NeuralMemoryState,
    keys: Tensor,
    values: Tensor,
    *,
    forget: Tensor,
    momentum: Tensor,
    step: Tensor,
    mask: Tensor | None = None,
    chunk_size: int,
    step_rule: str = "paper",
) -> NeuralMemoryState:
    """Write tokens into the memory by gradient steps, in closed form for each chunk.

    Args:
        state: the state before; it is not modified.
        keys, values: (streams, heads, tokens, head_dim).
        forget, momentum, step: the gates alpha, eta and theta, (streams, heads, tokens), in [0, 1].
        mask: (streams, tokens), True = write. A masked token leaves weights and momentum untouched, as if it were
            absent: chunk boundaries count written tokens. None writes every token.
        chunk_size: tokens whose gradients are taken at the same weights, at least 1. The end of the call closes the
            last chunk.
        step_rule: "paper" takes theta as it is. "normalized" uses ``theta_i (1 - eta_i) / (n b)`` with n the chunk's
            written tokens and b a bound of the local curvature (`_curvature_bounds`), so that correlated keys do not
            overshoot; after it no matrix is larger than `memory_bounds.norm_bound`. "paper" may diverge: it is the
            caller who looks (`memory_bounds.is_within_bounds`).

    Returns:
        The state after the tokens: float32, or float64 where an input is float64.

    Raises:
        ValueError: for an unknown `step_rule`, a `chunk_size` below 1, or shapes that do not belong together.
    """
    gates = {"forget": forget, "momentum": momentum, "step": step}
    _check_inputs(state, keys, values, gates, mask, chunk_size, step_rule)
    chunks = MemoryChunks.pack(keys, values, gates, mask, chunk_size, step_rule, dtype=_state_dtype(state, keys))
    return _write_chunks(state, chunks, step_rule)


def read_and_write_memory(
    state: NeuralMemoryState,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    forget: Tensor,
    momentum: Tensor,
    step: Tensor,
    mask: Tensor | None = None,
    chunk_size: int,
    step_rule: str = "paper",
    read: str = "history",
) -> tuple[Tensor, NeuralMemoryState]:
    """Read at every token and write the tokens; arguments as `write_memory`.

    Args:
        queries: (streams, heads, tokens, head_dim).
        read: "history": every token reads the state before the call. "chunk": a token of chunk j reads the state after
            chunk j - 1, Titans' own order; what a masked token reads then is unspecified.

    Returns:
        values (streams, heads, tokens, head_dim) and the state after the tokens.

    Raises:
        ValueError: as `write_memory`, and for an unknown `read`.
    """
    if read not in READ_ORDERS:
        raise ValueError(f"read must be one of {READ_ORDERS}, got {read!r}.")
    gates = {"forget": forget, "momentum": momentum, "step": step}
    write = {"mask": mask, "chunk_size": chunk_size, "step_rule": step_rule}
    if read == "history":
        return read_memory(state.weights, queries), write_memory(state, keys, values, **gates, **write)

    _check_inputs(state, keys, values, gates, **write)
    if queries.shape != keys.shape:
        raise ValueError(f"queries must have the shape of the keys, {tuple(keys.shape)}, got {tuple(queries.shape)}.")
    chunks = MemoryChunks.pack(keys, values, gates, mask, chunk_size, step_rule, dtype=_state_dtype(state, keys))
    packed_queries = chunks.pack_tokens(queries)
    answers = []
    state = _write_chunks(state, chunks, step_rule, queries=packed_queries, answers=answers)
    if not answers:
        return torch.zeros_like(queries, dtype=chunks.keys.dtype), state
    return chunks.unpack_tokens(torch.stack(answers, dim=2)), state


def _write_chunks(
    state: NeuralMemoryState,
    chunks: MemoryChunks,
    step_rule: str,
    *,
    queries: Tensor | None = None,
    answers: list[Tensor] | None = None,
) -> NeuralMemoryState:
    """The state after all chunks; with `queries`, what each chunk's queries read before it is written."""
    state = state.map(lambda tensor: tensor.to(chunks.keys.dtype))
    queries = [None] * chunks.count if queries is None else queries.unbind(2)
    for index, (chunk, chunk_queries) in enumerate(zip(chunks.unbind(), queries)):
        if chunk_queries is None:
            inputs, outputs = _pass(state.weights, chunk.keys)
        else:
            # Reading and writing begin alike, so they share the products.
            counts = [chunk.keys.shape[2], chunk_queries.shape[2]]
            both = _pass(state.weights, torch.cat([chunk.keys, chunk_queries], dim=2))
            inputs, outputs = ([tensor.split(counts, dim=2)[0] for tensor in tensors] for tensors in both)
            answers.append(both[1][-1].split(counts, dim=2)[1])
        # The first chunk's state may be the caller's; what later ones replace is known to nobody else.
        in_place = index > 0 and not torch.is_grad_enabled()
        state = _write_chunk(state, chunk, inputs, outputs, step_rule, in_place=in_place)
    if step_rule == "normalized":
        state = state.map(limit_norm)
    return state.map(lambda tensor: without_tiny(tensor, SMALLEST_ENTRY))


def _write_chunk(
    state: NeuralMemoryState,
    chunk: MemoryChunk,
    inputs: list[Tensor],
    outputs: list[Tensor],
    step_rule: str,
    *,
    in_place: bool,
) -> NeuralMemoryState:
    """The state after a chunk: ``M_n = A M_0 + b S_0 - sum_i c_i g_i`` and ``S_n = m S_0 - sum_i e_i g_i``."""
    deltas = _half_gradients(state.weights, inputs, outputs, chunk.values)
    if step_rule == "normalized":
        bounds = _curvature_bounds(state.weights, inputs)
    weights, momenta = [], []
    for layer, (weight, momentum) in enumerate(zip(state.weights, state.momentum)):
        delta = deltas[layer] / bounds[layer] if step_rule == "normalized" else deltas[layer]
        if in_place:
            weight, momentum = weight.mul_(chunk.keep).addcmul_(momentum, chunk.carry), momentum.mul_(chunk.decay)
        else:
            weight, momentum = torch.addcmul(weight * chunk.keep, momentum, chunk.carry), momentum * chunk.decay
        weights.append(_subtract_product(weight, inputs[layer].mT, chunk.to_weights * delta))
        momenta.append(_subtract_product(momentum, inputs[layer].mT, chunk.to_momentum * delta))
    return NeuralMemoryState(tuple(weights), tuple(momenta))


def _subtract_product(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``matrix - left @ right``, in place: one pass over a matrix that nobody else holds."""
    batch = matrix.flatten(0, 1)
    return batch.baddbmm_(left.flatten(0, 1), right.flatten(0, 1), alpha=-1).view_as(matrix)


def _pass(weights: tuple[Tensor, ...], inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What each matrix is applied to, and what it gives before the SiLU; the last is what the memory answers."""
    all_inputs, outputs = [inputs], []
    for weight in weights:
        if outputs:
            all_inputs.append(F.silu(outputs[-1]))
        outputs.append(all_inputs[-1] @ weight)
    return all_inputs, outputs


def _half_gradients(
    weights: tuple[Tensor, ...], inputs: list[Tensor], outputs: list[Tensor], values: Tensor
) -> list[Tensor]:
    """Half the gradient of each token's loss by what each matrix gives, (streams, heads, tokens, d_out)."""
    deltas = [outputs[-1] - values]
    for layer in range(len(weights) - 1, 0, -1):
        sigmoid = torch.sigmoid(outputs[layer - 1])
        slope = torch.addcmul(sigmoid, inputs[layer], 1 - sigmoid)  # of SiLU, whose value is the next matrix's input
        deltas.insert(0, (deltas[0] @ weights[layer].mT) * slope)
    return deltas


def _curvature_bounds(weights: tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """One plus half a bound of the curvature of a token's loss in each matrix, each (streams, heads, 1, 1).

    The loss of one token is quadratic in the last matrix, with curvature 2 ||a||^2 for the input a (the largest of the
    chunk is taken); each SiLU and matrix between another one and the output multiplies that by at most 1.21 ||W||_F^2.
    Where there is no token, the inputs are zero.
    """
    bounds = []
    behind = None
    for layer in range(len(weights) - 1, -1, -1):
        largest = torch.linalg.vector_norm(inputs[layer], dim=-1).amax(-1)[..., None, None].square()
        bounds.insert(0, 1 + (largest if behind is None else largest * behind))
        if layer:
            slope = _SILU_SLOPE_SQUARED * torch.linalg.vector_norm(weights[layer], dim=(-2, -1), keepdim=True).square()
            behind = slope if behind is None else behind * slope
    return bounds


def _state_dtype(state: NeuralMemoryState, keys: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (keys.dtype, state.weights[0].dtype) else torch.float32


def _check_inputs(state, keys, values, gates, mask, chunk_size, step_rule) -> None:
    if step_rule not in STEP_RULES:
        raise ValueError(f"step_rule must be one of {STEP_RULES}, got {step_rule!r}.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
    expected = (*state.weights[0].shape[:2], keys.shape[2] if keys.dim() == 4 else -1, state.weights[0].shape[2])
    if tuple(keys.shape) != expected or tuple(values.shape) != (*expected[:3], state.weights[-1].shape[3]):
        raise ValueError(
            "keys and values must be (streams, heads, tokens, head_dim) and fit the weights of the state, "
            f"{[tuple(weight.shape) for weight in state.weights]}, got keys {tuple(keys.shape)} and values "
            f"{tuple(values.shape)}."
        )
    for name, gate in gates.items():
        if tuple(gate.shape) != expected[:3]:
            raise ValueError(f"{name} must be (streams, heads, tokens) = {expected[:3]}, got {tuple(gate.shape)}.")
    if mask is not None and (tuple(mask.shape) != (expected[0], expected[2]) or mask.dtype != torch.bool):
        raise ValueError(
            f"mask must be a bool tensor (streams, tokens) = {(expected[0], expected[2])}, got {mask.dtype} "
            f"{tuple(mask.shape)}."
        )
