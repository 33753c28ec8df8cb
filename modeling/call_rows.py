"""Which conversations of a cache, and which of its streams, the rows of a call are turns of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .conversation_memory_cache import ConversationMemoryCache


class CallRows:
    """The conversation and the stream of each row of a call.

    A stream is the memory of one conversation, or of one speaker of it.

    Args:
        cache: cache of the conversations, which is not changed.
        rows: number of turns of the call.
        conversation_ids: (rows,) integers; None: row i is row i of the cache.
        speaker_ids: (rows,) integers; required for scope "speaker" only.

    Attributes:
        conversations: (rows,) the conversation of each row, as a row of the cache.
        streams: (rows,) the stream of each row.
        conversation_ids: conversation id -> row of the cache, with the new ids of this call; None: rows have no ids.
        speaker_ids: for each row of the cache, speaker id -> its stream among those of the row, likewise.

    Raises:
        ValueError: for ids of a wrong shape or type, more conversations or speakers than the cache can hold, or a
            cache that was used both with and without conversation_ids.
    """

    def __init__(
        self,
        cache: ConversationMemoryCache,
        rows: int,
        *,
        conversation_ids: Tensor | Sequence[int] | None = None,
        speaker_ids: Tensor | Sequence[int] | None = None,
    ):
        self._cache = cache
        self.conversation_ids = cache.conversation_ids
        self.speaker_ids = cache.speaker_ids
        ids = None if conversation_ids is None else _as_list(conversation_ids, rows, "conversation_ids")
        speakers = None if speaker_ids is None else _as_list(speaker_ids, rows, "speaker_ids")
        self.conversations = self._find_conversations(rows, ids)
        self.streams = self._find_streams(speakers) if cache.is_by_speaker else self.conversations

    def _find_conversations(self, rows: int, ids: list[int] | None) -> list[int]:
        cache = self._cache
        if ids is None:
            if self.conversation_ids is not None:
                raise ValueError("This memory_cache was used with conversation_ids before: pass them in every call.")
            if rows != cache.batch_size:
                raise ValueError(
                    f"Without conversation_ids, the call needs one row per row of the cache, but it has {rows} rows "
                    f"and the cache has {cache.batch_size}."
                )
            return list(range(rows))
        if self.conversation_ids is None and bool(cache.turns.any()):
            raise ValueError(
                "This memory_cache was used without conversation_ids before: do not pass them, or reset() the cache "
                "first."
            )
        known = dict(self.conversation_ids or {})
        free = [row for row in range(cache.batch_size) if row not in known.values()]
        new = [key for key in dict.fromkeys(ids) if key not in known]
        if len(new) > len(free):
            raise ValueError(
                f"memory_cache has batch_size={cache.batch_size} with {len(free)} free rows, but conversation_ids "
                f"name {len(new)} new conversations."
            )
        known.update(zip(new, free))
        self.conversation_ids = known
        return [known[key] for key in ids]

    def _find_streams(self, speakers: list[int] | None) -> list[int]:
        slots = self._cache.streams_per_row
        if speakers is None:
            raise ValueError("speaker_ids are needed: memory_config.scope is 'speaker'.")
        self.speaker_ids = [dict(known) for known in self._cache.speaker_ids]
        streams = []
        for row, speaker in zip(self.conversations, speakers):
            known = self.speaker_ids[row]
            slot = known.setdefault(speaker, len(known))
            if slot >= slots:
                raise ValueError(f"A conversation has more than max_speakers={slots} speakers: {sorted(known)}.")
            streams.append(row * slots + slot)
        return streams

    def stream_name(self, stream: int) -> str:
        """The conversation, and the speaker, of a stream in messages."""
        names = {row: name for name, row in (self.conversation_ids or {}).items()}
        cache_row, slot = divmod(stream, self._cache.streams_per_row)
        name = f"conversation {names[cache_row]}" if cache_row in names else f"row {cache_row}"
        if not self._cache.is_by_speaker:
            return name
        return f"{name}, speaker {next(key for key, of in self.speaker_ids[cache_row].items() if of == slot)}"


def schedule(streams: list[int]) -> tuple[list[int], Tensor, list[int]]:
    """The distinct streams, those with most turns first; the rows turn by turn; the number of rows of each turn."""
    turns = turns_of(streams)
    return turns[0][1], torch.tensor([row for rows, _ in turns for row in rows]), [len(rows) for rows, _ in turns]


def turns_of(streams: list[int]) -> list[tuple[list[int], list[int]]]:
    """The rows of the streams' first turns, of their second turns, ..., and their streams; longest streams first."""
    rows_of: dict[int, list[int]] = {}
    for row, stream in enumerate(streams):
        rows_of.setdefault(stream, []).append(row)
    order = sorted(rows_of, key=lambda stream: -len(rows_of[stream]))
    turns = []
    for turn in range(len(rows_of[order[0]])):
        present = [stream for stream in order if turn < len(rows_of[stream])]
        turns.append(([rows_of[stream][turn] for stream in present], present))
    return turns


def _as_list(ids: Tensor | Sequence[int], rows: int, name: str) -> list[int]:
    try:
        tensor = torch.as_tensor(ids)
    except (ValueError, TypeError, RuntimeError):
        tensor = None
    if tensor is None or tensor.shape != (rows,) or tensor.is_floating_point() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} must be ({rows},) integers, one per row, got {ids!r}.")
    return tensor.tolist()
