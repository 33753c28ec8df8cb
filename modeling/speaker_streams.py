"""The memory of one speaker of a conversation: taken out of a cache, and continued in another conversation."""

from __future__ import annotations

import torch
from torch import Tensor

from .conversation_memory_cache import ConversationMemoryCache
from .model_identity import check_same_model, check_same_weights


def speaker_stream(cache: ConversationMemoryCache, speaker_id: int) -> ConversationMemoryCache:
    """A cache of one row with the stream of a speaker, and nothing of other speakers.

    Args:
        cache: of a single conversation, with a memory for each speaker; it is unchanged.
        speaker_id: id of a speaker with a stream; in the returned cache it is 0.

    Raises:
        ValueError: for a cache of several conversations, a memory that speakers share, or an unknown speaker.
    """
    known = _slots(cache)
    if speaker_id not in known:
        raise ValueError(f"The cache has no memory of the speaker {speaker_id}: its speakers are {sorted(known)}.")
    slot = known[speaker_id]

    def alone(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[slot : slot + 1], torch.zeros_like(tensor[1:])])

    part = cache.snapshot()
    part.notes, part.conversation_ids, part.speaker_ids = {}, None, [{0: 0}]
    part.beliefs = None  # of the conversation, not of the speaker
    part.turns, part.tokens = alone(cache.turns), alone(cache.tokens)
    for layer in part.layers:
        layer.map(alone)
    return part


def add_speaker_stream(cache: ConversationMemoryCache, speaker_id: int, stream: ConversationMemoryCache) -> None:
    """Let a speaker who has no stream in a conversation continue one that `speaker_stream` returned.

    Args:
        cache: of a single conversation, with a memory for each speaker; it is changed.
        speaker_id: id of the speaker in this cache.
        stream: a stream of the same model, on the same device.

    Raises:
        ValueError: as `speaker_stream`, for a stream of another model, or if the speaker has a stream or there is no
            room for one; the cache is then unchanged.
    """
    known = _slots(cache)
    check_same_model(cache.identity, stream.identity, "The stream")
    if cache.is_initialized:
        check_same_weights(cache.weights_fingerprint, stream.weights_fingerprint)
    if speaker_id in known or len(known) >= cache.streams_per_row:
        raise ValueError(
            f"The speaker {speaker_id} cannot be added: the cache already has {sorted(known)}, and at most "
            f"{cache.streams_per_row} speakers are allowed."
        )
    (slot,), place = _slots(stream).values(), torch.tensor([len(known)])

    def with_stream(mine: Tensor, theirs: Tensor) -> Tensor:
        return mine.index_copy(0, place.to(mine.device), theirs[slot : slot + 1].to(mine.device))

    for index, layer in enumerate(stream.layers):
        if layer.state is not None:
            cache.update(layer.state[slice(slot, slot + 1)], index, place)
    if not bool(cache.turns.any()):
        cache.weights_fingerprint = stream.weights_fingerprint
    cache.turns, cache.tokens = with_stream(cache.turns, stream.turns), with_stream(cache.tokens, stream.tokens)
    cache.speaker_ids = [{**known, speaker_id: len(known)}]


def _slots(cache: ConversationMemoryCache) -> dict[int, int]:
    """The stream of each speaker of the only conversation."""
    if cache.batch_size != 1 or not cache.is_by_speaker:
        raise ValueError(
            "A speaker's memory needs a cache with one conversation and memory_config.scope='speaker'; this one has "
            f"{cache.batch_size} conversations and scope={'speaker' if cache.is_by_speaker else 'conversation'!r}."
        )
    return cache.speaker_ids[0]
