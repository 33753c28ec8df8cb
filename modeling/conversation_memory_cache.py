"""The state of conversations between calls, modelled on `transformers.Cache`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .conversation_memory_file import SavedStateMixin
from .memory_state import NeuralMemoryState
from .model_identity import check_same_model, check_same_weights, state_identity


@dataclass
class MemoryCacheLayer:
    """The state of all streams at one memory layer.

    Attributes:
        state: None before the first write.
    """

    state: NeuralMemoryState | None = None

    @property
    def is_initialized(self) -> bool:
        return self.state is not None

    @property
    def weights(self) -> tuple[Tensor, ...] | None:
        """One tensor per matrix, each (streams, heads, d_in, d_out); float32, or float64 for a float64 model."""
        return None if self.state is None else self.state.weights

    @property
    def momentum(self) -> tuple[Tensor, ...] | None:
        """As `weights`."""
        return None if self.state is None else self.state.momentum

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply `function` to each tensor of the state, if there is one."""
        if self.state is not None:
            self.state = self.state.map(function)


class ConversationMemoryCache(SavedStateMixin):
    """The memory's state for each conversation, passed from call to call as `memory_cache`.

    A cache has `batch_size` rows, one per conversation. Without `conversation_ids`, row i of a call is row i of the
    cache. With them, the cache remembers the row that each id was assigned on its first write. A call writes all of
    its turns or, if it fails, none. The cache's tensors are replaced, never modified in place.

    One call at a time may write to a cache: of two that write at once, as in several threads, the one that ends last
    raises RuntimeError and writes nothing. `ConversationStore` and `ConversationPool` take turns from any thread.

    Args:
        config: configuration of the model (with a `memory_config`).
        batch_size: number of conversations.

    Attributes:
        layers: a `MemoryCacheLayer` per memory layer, in the order of `memory_config.layers`.
        turns, tokens: (batch_size * streams per row,) number of turns and audio tokens written to each stream.
        beliefs: (batch_size, labels) float32, the probabilities of each conversation's latest turn; zeros before the
            first, or if it had no logits; None: the model has no `emotion_transitions`, or no turn was written.
        identity: describes the models that may use the state: type and shape of the host and of the memory.
        weights_fingerprint: of the memory that wrote the state; None if unknown, as during training.
        notes: JSON-serialisable data that is saved, reset and restored with the state, such as a history. Replace its
            values instead of modifying them in place. `stack` and `split` drop it.

    Raises:
        ValueError: for a `batch_size` below 1 or a config without memory.
    """

    def __init__(self, config: PreTrainedConfig, batch_size: int = 1):
        memory = getattr(config, "memory_config", None)
        if memory is None:
            raise ValueError(f"config must be the config of a model with memory, got {type(config).__name__}.")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}.")
        self._config = config
        self.weights_fingerprint: str | None = None
        self.streams_per_row, self.is_by_speaker = memory.streams_per_row, memory.scope == "speaker"
        self.layers = [MemoryCacheLayer() for _ in memory.layers]
        self.turns = torch.zeros(batch_size * self.streams_per_row, dtype=torch.long)
        self.tokens = torch.zeros_like(self.turns)
        self.beliefs: Tensor | None = None
        self.notes: dict = {}
        # Conversation id -> row; None while rows are addressed by number.
        self.conversation_ids: dict[int, int] | None = None
        # Per row: speaker id -> stream.
        self.speaker_ids: list[dict[int, int]] = [{} for _ in range(batch_size)]

    # --- The interface of transformers' caches

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(layers={len(self)}, batch_size={self.batch_size}, turns={self.turns.tolist()})"

    @functools.cached_property
    def identity(self) -> dict:
        # Computed on first use: a call without a cache creates one that lives only for that call.
        return state_identity(self._config)

    @property
    def batch_size(self) -> int:
        return len(self.speaker_ids)

    @property
    def is_initialized(self) -> bool:
        """Whether every layer has been written to."""
        return all(layer.is_initialized for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Size of the state in bytes."""
        states = [layer.state for layer in self.layers if layer.state is not None]
        beliefs = 0 if self.beliefs is None else self.beliefs.nbytes
        return beliefs + sum(tensor.nbytes for state in states for tensor in state.tensors)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of audio tokens written to the longest row; it is the same in every layer."""
        self._check_layer(layer_idx)
        return int(self.tokens.view(self.batch_size, -1).sum(-1).max())

    def has_previous_state(self, layer_idx: int | None = None) -> bool:
        """Whether a turn was written at the layer (None: at any layer)."""
        if layer_idx is None:
            return any(layer.is_initialized for layer in self.layers)
        self._check_layer(layer_idx)
        return self.layers[layer_idx].is_initialized

    def update(self, state: NeuralMemoryState, layer_idx: int, streams: Tensor | None = None) -> NeuralMemoryState:
        """Replace the state of `streams` (indices; None = all) at a layer, and return the layer's new state."""
        self._check_layer(layer_idx)
        layer = self.layers[layer_idx]
        if streams is not None:
            total = len(self.turns)
            old = layer.state or state.map(lambda t: t.new_zeros(total, *t.shape[1:]))
            state = old.map(lambda before, after: before.index_copy(0, streams.to(before.device), after), state)
        layer.state = state
        return state

    def reset(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Forget everything, or the given rows; their ids become free.

        Raises:
            ValueError: for rows that are no integers, as in a mask, or that the cache does not have.
        """
        rows = list(range(self.batch_size)) if rows is None else self._check_rows(rows)
        forgotten = torch.zeros(self.batch_size, dtype=torch.bool)
        forgotten[rows] = True
        streams = forgotten.repeat_interleave(self.streams_per_row)

        def clear(tensor: Tensor) -> Tensor:
            return tensor.masked_fill(_row_mask(streams, tensor), 0)

        self.turns, self.tokens = clear(self.turns), clear(self.tokens)
        for layer in self.layers:
            layer.map(clear)
        if self.beliefs is not None:
            self.beliefs = self.beliefs.masked_fill(_row_mask(forgotten, self.beliefs), 0)
        if not bool(self.turns.any()):
            self.weights_fingerprint, self.beliefs, self.notes = None, None, {}
            for layer in self.layers:
                layer.state = None
        for row in rows:
            self.speaker_ids[row] = {}
        if self.conversation_ids is not None:
            self.conversation_ids = {key: row for key, row in self.conversation_ids.items() if row not in rows} or None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes the former row `beam_idx[i]`."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times; copies lose their conversation id, so rows are then addressed by number."""
        self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, in the given order.

        Raises:
            ValueError: as `reset`.
        """
        rows = self._check_rows(indices)
        streams = self._streams_of_rows(rows)
        for layer in self.layers:
            layer.map(lambda tensor: tensor[streams.to(tensor.device)])
        streams = streams.to(self.turns.device)
        self.turns, self.tokens = self.turns[streams], self.tokens[streams]
        if self.beliefs is not None:
            self.beliefs = self.beliefs[rows]
        self.speaker_ids = [dict(self.speaker_ids[row]) for row in rows]
        if self.conversation_ids is not None:
            of_row = {row: key for key, row in self.conversation_ids.items()}
            unique = len(set(rows)) == len(rows)
            kept = {of_row[row]: new for new, row in enumerate(rows) if row in of_row}
            self.conversation_ids = kept if unique and kept else None

    def crop(self, *args, **kwargs) -> None:
        """Not supported.

        Raises:
            ValueError: always; use `snapshot` and `restore` instead.
        """
        raise ValueError(
            "A conversation memory cannot be cropped: take a snapshot() before the call and restore() it."
        )

    # --- Specific to the memory

    def detach_(self) -> ConversationMemoryCache:
        """Detach the state from the graph of earlier calls."""
        for layer in self.layers:
            layer.map(Tensor.detach)
        return self

    def to(self, device=None, dtype: torch.dtype | None = None) -> ConversationMemoryCache:
        """Move the state in place and return the cache itself, so that later writes always reach this cache.

        Raises:
            ValueError: for a dtype other than float32 and float64.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"The state must be float32 or float64, got dtype={dtype}.")
        for layer in self.layers:
            layer.map(lambda tensor: tensor.to(device=device, dtype=dtype))
        if device is not None:
            self.turns, self.tokens = self.turns.to(device), self.tokens.to(device)
            self.beliefs = None if self.beliefs is None else self.beliefs.to(device)
        return self

    def snapshot(self) -> ConversationMemoryCache:
        """The present state, for `restore`; shares its tensors with the cache, so it needs no memory of its own."""
        twin = object.__new__(type(self))  # copy.copy calls this method
        twin.__dict__.update(self.__dict__)
        twin.layers = [copy.copy(layer) for layer in self.layers]
        twin.speaker_ids = [dict(speakers) for speakers in self.speaker_ids]
        twin.conversation_ids = None if self.conversation_ids is None else dict(self.conversation_ids)
        twin.notes = dict(self.notes)
        return twin

    def restore(self, snapshot: ConversationMemoryCache) -> None:
        """Return to a state created by `snapshot`.

        Raises:
            ValueError: if it is a snapshot of a cache for another model.
        """
        check_same_model(self.identity, snapshot.identity, "The snapshot")
        self.adopt(snapshot.snapshot())

    def clone(self) -> ConversationMemoryCache:
        """An independent copy of the cache."""
        twin = self.snapshot()
        for layer in twin.layers:
            layer.map(Tensor.clone)
        twin.turns, twin.tokens = self.turns.clone(), self.tokens.clone()
        twin.beliefs = None if self.beliefs is None else self.beliefs.clone()
        return twin

    def __copy__(self) -> ConversationMemoryCache:
        return self.snapshot()

    def __deepcopy__(self, memo) -> ConversationMemoryCache:
        return self.clone()

    @classmethod
    def stack(cls, caches: Iterable[ConversationMemoryCache]) -> ConversationMemoryCache:
        """Combine the rows of several caches into one, addressed by number; `split` reverses it.

        Raises:
            ValueError: for an empty list, or caches of different models or of different weights.
        """
        caches = list(caches)
        if not caches:
            raise ValueError("stack needs at least one cache, got none.")
        if others := [type(cache).__name__ for cache in caches if not isinstance(cache, ConversationMemoryCache)]:
            raise ValueError(f"stack needs caches, got {others}.")
        first = caches[0].snapshot()
        for cache in caches[1:]:
            check_same_model(first.identity, cache.identity, "A cache to be stacked")
        origins = [cache.weights_fingerprint for cache in caches if cache.is_initialized]
        known = [origin for origin in origins if origin is not None]
        for origin in known:
            check_same_weights(known[0], origin)
        first.weights_fingerprint = known[0] if known and None not in origins else None
        first.turns = torch.cat([cache.turns for cache in caches])
        first.tokens = torch.cat([cache.tokens for cache in caches])
        first.beliefs = _stacked_beliefs(caches)
        first.speaker_ids = [dict(speakers) for cache in caches for speakers in cache.speaker_ids]
        first.conversation_ids, first.notes = None, {}
        for index, layer in enumerate(first.layers):
            states = _fill_up([cache.layers[index] for cache in caches], [len(cache.turns) for cache in caches])
            if states:
                layer.state = NeuralMemoryState.concatenate(states)
        return first

    def split(self) -> list[ConversationMemoryCache]:
        """One single-row cache per row."""
        parts = []
        for row in range(self.batch_size):
            part = self.snapshot()
            part.notes = {}
            part.batch_select_indices(torch.tensor([row]))
            if not int(part.turns.sum()):
                part.reset()
            parts.append(part)
        return parts

    # --- Used by the model

    def read(self, layer_idx: int, streams: Tensor, initial: NeuralMemoryState) -> NeuralMemoryState:
        """The state of `streams` at a layer; streams never written to get their row of the `initial` state.

        Raises:
            ValueError: if the stored state has another device or dtype than the memory layer.
        """
        if self.layers[layer_idx].state is None:
            return initial
        written = self.read_written(layer_idx, streams, initial.weights[0])
        fresh = (self.turns.to(streams.device)[streams] == 0)[:, None, None, None]
        return written.map(lambda before, start: torch.where(fresh, start, before), initial)

    def read_written(self, layer_idx: int, streams: Tensor | None, like: Tensor) -> NeuralMemoryState:
        """The stored state of `streams`, which must all have been written to; None = all streams.

        Args:
            like: a tensor of the memory layer, for its device and dtype.

        Raises:
            ValueError: as `read`.
        """
        state = self.layers[layer_idx].state
        stored = state.weights[0]
        if (stored.device, stored.dtype) != (like.device, like.dtype):
            raise ValueError(
                f"memory_cache is on {stored.device} in {stored.dtype}, the memory layer on {like.device} in "
                f"{like.dtype}: call memory_cache.to({str(like.device)!r}, {like.dtype}) first."
            )
        if not torch.compiler.is_compiling() and stored.is_inference() and not torch.is_inference_mode_enabled():
            # Autograd cannot save inference tensors for backward, so copy them.
            state = state.map(Tensor.clone)
        return state if streams is None else state[streams]

    def adopt(self, cache: ConversationMemoryCache) -> None:
        """Take over the contents of a cache of the same model, which must not be used afterwards."""
        self.__dict__.update(cache.__dict__)

    def check_reader(self, config: PreTrainedConfig, weights_fingerprint: str | None) -> None:
        """Check that a model may read and write the state.

        Args:
            config: the configuration of the model.
            weights_fingerprint: of its memory; None if unknown.

        Raises:
            ValueError: for another model, or memory weights other than those that wrote the state.
        """
        if config is not self._config:
            check_same_model(self.identity, state_identity(config), "The model")
            self._config = config  # skip the check on later calls of the same model
        check_same_weights(self.weights_fingerprint, weights_fingerprint)

    def _streams_of_rows(self, rows: Sequence[int]) -> Tensor:
        slots = torch.arange(self.streams_per_row)
        return (torch.tensor(rows, dtype=torch.long)[:, None] * self.streams_per_row + slots).flatten()

    def _check_rows(self, rows: Sequence[int] | Tensor) -> list[int]:
        given = rows.tolist() if hasattr(rows, "tolist") else rows
        given = [*given] if isinstance(given, Iterable) else [given]
        given = [row.item() if isinstance(row, Tensor) else row for row in given]
        if any(isinstance(row, bool) or not isinstance(row, Integral) for row in given):
            raise ValueError(f"Rows must be integers, got {rows}; a mask must be given as the rows that it selects.")
        numbers = [int(row) for row in given]
        missing = [row for row in numbers if not 0 <= row < self.batch_size]
        if missing:
            raise ValueError(f"The cache has rows 0 to {self.batch_size - 1}, got {missing[0]}.")
        return numbers

    def _check_layer(self, layer_idx: int) -> None:
        if not 0 <= layer_idx < len(self):
            raise ValueError(f"The cache has memory layers 0 to {len(self) - 1}, got {layer_idx}.")


def _row_mask(rows: Tensor, tensor: Tensor) -> Tensor:
    """A mask of rows, (rows,) bool, reshaped to broadcast over the other dimensions of a tensor."""
    return rows.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))


def _stacked_beliefs(caches: Sequence[ConversationMemoryCache]) -> Tensor | None:
    """The beliefs of several caches; zeros for caches without any."""
    known = next((cache.beliefs for cache in caches if cache.beliefs is not None), None)
    if known is None:
        return None
    unknown = (known.new_zeros(cache.batch_size, known.shape[1]) for cache in caches)
    return torch.cat(
        [zeros if cache.beliefs is None else cache.beliefs.to(known.device) for cache, zeros in zip(caches, unknown)]
    )


def _fill_up(layers: Sequence[MemoryCacheLayer], streams: Sequence[int]) -> list[NeuralMemoryState]:
    """The states of `layers`; zeros for layers never written to, which are not read before their first write."""
    written = next((layer.state for layer in layers if layer.state is not None), None)
    if written is None:
        return []
    return [
        layer.state or written.map(lambda t, count=count: t.new_zeros(count, *t.shape[1:]))
        for layer, count in zip(layers, streams)
    ]
