"""One call's view of a `ConversationMemoryCache`: it reads the state before the call, and writes all turns or none."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

from .call_rows import CallRows, schedule, turns_of
from .conversation_memory_cache import ConversationMemoryCache
from .emotion_transitions import follow_turns
from .input_scalars import InputScalars
from .memory_state import NeuralMemoryState


logger = logging.get_logger(__name__)

# Detects two calls that write to one cache at the same time.
_committing = threading.Lock()


class MemoryTransaction:
    """Reads the streams of a call's rows, stages their new states, and commits them at the end.

    `CallRows` finds the stream of each row. Rows of one stream are its successive turns, in row order. Nothing but
    `commit` changes the cache.

    Args:
        cache: cache of the conversations.
        rows: number of turns of the call.
        conversation_ids: (rows,) integers; None: row i is row i of the cache.
        speaker_ids: (rows,) integers; required for scope "speaker" only.
        write: whether the turns are written.
        weights_fingerprint: of the memory that reads and writes; None if unknown.
        is_training: skip turns with non-finite values with a warning instead of raising: training skips such steps
            itself, and other processes must not wait for one that stopped.

    Attributes:
        row_order: (rows,) the rows of the streams' first turns, then of their second turns, ...; None if each row is
            the only turn of a stream.
        batch_sizes: the number of streams with a first turn, a second turn, ..., as for `TitansMemoryLayer`; None
            likewise.

    Raises:
        ValueError: as `CallRows`.
    """

    def __init__(
        self,
        cache: ConversationMemoryCache,
        rows: int,
        *,
        conversation_ids: Tensor | Sequence[int] | None = None,
        speaker_ids: Tensor | Sequence[int] | None = None,
        write: bool = True,
        weights_fingerprint: str | None = None,
        is_training: bool = False,
    ):
        self.cache = cache
        self._is_training = is_training
        self._weights_fingerprint = weights_fingerprint
        # The state that the call reads, also if a block is recomputed in the backward pass, after the commit.
        self._before = cache.snapshot()
        self.write = write
        self.copies = 1
        # Set by `generate`, (rows, positions) bool: the audio in its prompt. Only the first forward call writes it.
        self.prompt_audio: Tensor | None = None
        self.is_closed = False
        self._staged: dict[int, NeuralMemoryState] = {}
        self._rejected: dict[int, Tensor] = {}
        self._tokens: Tensor | None = None
        self._beliefs: Tensor | None = None

        self._call_rows = CallRows(cache, rows, conversation_ids=conversation_ids, speaker_ids=speaker_ids)
        streams = self._call_rows.streams
        self._row_streams = torch.tensor(streams)
        if not write or len(set(streams)) == rows:
            # Rows that do not write cannot see each other, so all of them read the state before the call.
            order, self.row_order, self.batch_sizes = streams, None, None
        else:
            order, self.row_order, self.batch_sizes = schedule(streams)
        self._streams_in_order = torch.tensor(order)
        # Computed from Python integers, since compiled code must not read tensors.
        self._is_whole_cache = order == list(range(len(cache.turns)))
        # Likewise, and without waiting for an accelerator: whether every stream has been written before.
        turns = cache.turns
        is_at_hand = turns.device.type == "cpu" and not torch.compiler.is_compiling()
        self._is_continued = is_at_hand and all(count > 0 for count in turns[self._streams_in_order].tolist())

    def expand(self, copies: int) -> None:
        """Let each row stand for `copies` identical rows, such as beams; only the first of them is written."""
        self.copies *= copies
        if self.batch_sizes is not None and self.row_order is not None:
            self.batch_sizes = [size * copies for size in self.batch_sizes]
            self.row_order = (self.row_order[:, None] * copies + torch.arange(copies)).flatten()

    def turn_by_turn(self, tensor: Tensor) -> Tensor:
        """Reorder (rows, ...) from the order of the call to `row_order`."""
        return tensor if self.row_order is None else tensor[_sent(self.row_order, tensor.device)]

    def row_by_row(self, tensor: Tensor) -> Tensor:
        """Reorder (rows, ...) from `row_order` to the order of the call."""
        return tensor if self.row_order is None else tensor[_sent(torch.argsort(self.row_order), tensor.device)]

    def audio_between(self, start: int, length: int) -> Tensor:
        """(rows * copies, length) bool: the prompt's audio among the `length` positions from `start`.

        Generated tokens are never audio, even if they equal the placeholder.
        """
        if self.prompt_audio is None:
            raise RuntimeError("The audio of the prompt is known only within generate.")
        prompt = self.prompt_audio[:, start : start + length]
        return F.pad(prompt, (0, length - prompt.shape[1])).repeat_interleave(self.copies, dim=0)

    def read(self, layer_idx: int, layer) -> NeuralMemoryState:
        """The state that a memory layer starts from, for the streams in the order of `batch_sizes`."""
        if self._is_continued and self._before.layers[layer_idx].is_initialized:
            like = layer.state_like
            streams = None if self._is_whole_cache else _sent(self._streams_in_order, like.device)
            state = self._before.read_written(layer_idx, streams, like)
        else:
            initial = layer.initial_state(len(self._streams_in_order))
            state = self._before.read(layer_idx, _sent(self._streams_in_order, initial.weights[0].device), initial)
        return state if self.copies == 1 else state.map(lambda tensor: tensor.repeat_interleave(self.copies, dim=0))

    def stage(self, layer_idx: int, state: NeuralMemoryState, *, is_rejected: Tensor | None = None) -> None:
        """Keep the same streams' state after the call for `commit`, and which turns were rejected."""
        if self.write and not self.is_closed:
            self._staged[layer_idx] = state[:: self.copies] if self.copies > 1 else state
            if is_rejected is not None:
                self._rejected[layer_idx] = self.row_by_row(is_rejected)[:: self.copies]

    def stage_tokens(self, tokens: Tensor) -> None:
        """Keep the number of written tokens of each row, (rows,)."""
        if self.write and not self.is_closed:
            self._tokens = tokens[:: self.copies]

    def follow(self, logits: Tensor, has_audio: Tensor, transitions: list[list[float]], temperature: float) -> Tensor:
        """Shift each turn's logits by what the conversation's turn before makes likely (see `follow_transitions`).

        The beliefs of the turns are kept for `commit`, unless `generate` has closed the transaction.

        Args:
            logits: (rows, labels).
            has_audio: (rows,) bool; other rows are no turns.
            transitions, temperature: as `follow_turns` takes them.

        Returns:
            (rows, labels).

        Raises:
            ValueError: for a cache whose beliefs are of another number of labels.
        """
        logits, has_audio = logits[:: self.copies], has_audio[:: self.copies]
        # Rows that do not write cannot see each other.
        conversations = self._call_rows.conversations
        turns = turns_of(conversations) if self.write else [(list(range(len(logits))), conversations)]
        beliefs = self._before.beliefs
        if beliefs is None:
            beliefs = torch.zeros(self.cache.batch_size, logits.shape[1])
        logits, beliefs = follow_turns(logits, has_audio, beliefs, turns, transitions, temperature)
        if self.write and not self.is_closed:
            self._beliefs = beliefs
        return logits.repeat_interleave(self.copies, dim=0) if self.copies > 1 else logits

    def end_of_forward(self, readings: Tensor | None = None, unread: InputScalars | None = None) -> None:
        """Commit, unless inside `generate`, which commits at its end what its first forward call staged.

        Args:
            readings: (rows, numbers), emotion logits and values of the call's turns, which are not written if these
                are not finite.
            unread: scalars about the inputs of the call that have to be read before anything is written.

        Raises:
            ValueError: as `commit`, and for readings that are not finite.
        """
        if self.prompt_audio is None:
            self.commit(readings, unread)
        else:
            _check_readings(readings)
        self.is_closed = True

    def commit(self, readings: Tensor | None = None, unread: InputScalars | None = None) -> None:
        """Write all staged states into the cache or, if anything fails, none.

        Args:
            readings, unread: as `end_of_forward` takes them.

        Raises:
            RuntimeError: if another call wrote to the cache in the meantime, since its turns would be lost.
            ValueError: for a state, or unread audio features, that are not finite. In training, and in compiled
                code, a turn whose state is not finite is skipped.
        """
        if self._tokens is None:
            _check_readings(readings)
            return
        tokens = self._leave_out_not_finite(self._tokens, readings, unread)
        if unread is not None and not unread.values["longest"]:
            return  # a call without audio writes nothing, not even its ids
        with contextlib.nullcontext() if torch.compiler.is_compiling() else _committing:
            self._write(tokens)
        self._warn_of_rejected()

    def _write(self, tokens: Tensor) -> None:
        # Tensors of a cache are replaced, never changed in place.
        if not torch.compiler.is_compiling() and self.cache.turns is not self._before.turns:
            raise RuntimeError(
                "The memory_cache was changed during this call, perhaps by another thread: nothing was written. Use "
                "one cache per thread, or a lock."
            )
        after = self.cache.snapshot()
        streams = None if self._is_whole_cache else self._streams_in_order
        for layer_idx, state in self._staged.items():
            after.update(state, layer_idx, streams)
        rows = _sent(self._row_streams, tokens.device)
        after.tokens = _sent(after.tokens, tokens.device).index_add(0, rows, tokens)
        after.turns = _sent(after.turns, tokens.device).index_add(0, rows, (tokens > 0).long())
        if self._beliefs is not None or after.beliefs is not None:
            after.beliefs = self._beliefs_after(tokens)
        after.conversation_ids = self._call_rows.conversation_ids
        after.speaker_ids = self._call_rows.speaker_ids
        # A state that was partly written by unknown weights keeps an unknown origin.
        is_known = not self.cache.is_initialized or self.cache.weights_fingerprint is not None
        after.weights_fingerprint = self._weights_fingerprint if is_known else None
        self.cache.adopt(after)

    def _beliefs_after(self, tokens: Tensor) -> Tensor | None:
        """The cache's beliefs after turns of `tokens` were written.

        They are zeros where the last turn had no logits, and as before where a turn was left out.
        """
        before, after = (None if b is None else b.to(tokens.device) for b in (self._before.beliefs, self._beliefs))
        if after is None:
            return None if before is None else before.masked_fill(self._conversations_of(tokens > 0), 0)
        if self._tokens is None or self._tokens is tokens:
            return after
        before = torch.zeros_like(after) if before is None else before
        return torch.where(self._conversations_of((tokens == 0) & (self._tokens > 0)), before, after)

    def _conversations_of(self, rows: Tensor) -> Tensor:
        """(conversations, 1) bool: whether any of the chosen rows, (rows,) bool, is a turn of the conversation."""
        places = _sent(torch.tensor(self._call_rows.conversations), rows.device)
        counts = torch.zeros(self.cache.batch_size, dtype=torch.long, device=rows.device)
        return (counts.index_add(0, places, rows.long()) > 0)[:, None]

    def _leave_out_not_finite(
        self, tokens: Tensor, readings: Tensor | None, unread: InputScalars | None = None
    ) -> Tensor:
        """Restore the streams whose staged state is not finite, or raise (see `commit`).

        Returns:
            The number of written tokens of each row, (rows,): `tokens`, or 0 in a restored stream.
        """
        if not self._staged:
            if unread is not None:
                unread.read()
            _check_readings(readings)
            return tokens
        is_compiling = torch.compiler.is_compiling()
        tensors = [tensor for state in self._staged.values() for tensor in state.tensors]
        device = tensors[0].device
        # Entries are bounded, so the sum is finite if and only if all entries are.
        is_finite = torch.stack([tensor.sum((1, 2, 3)).to(device) for tensor in tensors]).isfinite().all(0)
        if not is_compiling:
            # Check all together: every check synchronizes with an accelerator.
            are_good = is_finite.all() if readings is None else is_finite.all() & readings.isfinite().all().to(device)
            (is_good,) = [bool(are_good)] if unread is None else unread.read(are_good)
            if is_good:
                return tokens
            _check_readings(readings)
            broken = self._streams_in_order[~is_finite.cpu()].tolist()
            names = "; ".join(self._call_rows.stream_name(stream) for stream in broken)
            if not self._is_training:
                raise ValueError(
                    f"The memory of {names} would not be finite after this call: nothing was written. Check the audio "
                    "features and the model's weights."
                )
            logger.warning(f"A turn of {names} is not written to the memory: its values are not finite.")
        for layer_idx, state in self._staged.items():
            self._staged[layer_idx] = self._keep_where(is_finite, layer_idx, state)
        of_streams = torch.ones(len(self.cache.turns), dtype=torch.bool, device=device)
        of_streams = of_streams.index_copy(0, self._streams_in_order.to(device), is_finite)
        return tokens * of_streams[self._row_streams.to(device)].to(tokens.device)

    def _keep_where(self, is_finite: Tensor, layer_idx: int, state: NeuralMemoryState) -> NeuralMemoryState:
        """The staged state where `is_finite`, (streams,) bool, and the state before the call elsewhere."""
        # Zeros for streams that were never written to; they are not read.
        before = self._before.layers[layer_idx].state
        before = (
            state.map(torch.zeros_like)
            if before is None
            else before[self._streams_in_order.to(state.weights[0].device)]
        )

        def keep(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(is_finite.to(new.device)[:, None, None, None], new, old)

        return state.map(keep, before)

    def _warn_of_rejected(self) -> None:
        """Warn once per stream that the memory diverged."""
        if torch.compiler.is_compiling():
            return
        for layer_idx, is_rejected in self._rejected.items():
            for row in is_rejected.nonzero().flatten().tolist():
                name = self._call_rows.stream_name(int(self._row_streams[row]))
                logger.warning_once(
                    f'The memory of {name} diverged at memory layer {layer_idx}, which step_rule="paper" allows: the '
                    "turn was not written."
                )

    def __deepcopy__(self, memo) -> MemoryTransaction:
        # Assisted decoding passes a copy to the assistant model, which may read but must not write.
        twin = self.twin()
        twin.write = False
        return twin

    def twin(self) -> MemoryTransaction:
        """The same rows and states for a further pass over the same turns, which is never committed."""
        twin = object.__new__(MemoryTransaction)
        twin.__dict__.update(self.__dict__, _staged={}, _rejected={}, _tokens=None, _beliefs=None)
        return twin


def _check_readings(readings: Tensor | None) -> None:
    """Reject a turn whose emotion logits or values are not finite, before it is written."""
    if readings is None or torch.compiler.is_compiling() or bool(readings.isfinite().all()):
        return
    rows = (~readings.isfinite().all(-1)).nonzero().flatten().tolist()
    raise ValueError(f"The emotion logits or values of rows {rows} are not finite: nothing was written.")


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Move to a device, from the CPU without synchronizing."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")
