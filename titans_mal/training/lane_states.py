"""The memory of each lane, carried from step to step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedConfig

from ..modeling.conversation_memory_cache import ConversationMemoryCache


class LaneStates:
    """A cache for each batch of an optimiser step in this process.

    Args:
        config: the configuration of the model.
        lanes: number of lanes per batch.
    """

    def __init__(self, config: PreTrainedConfig, lanes: int):
        self._config = config
        self._lanes = lanes
        self._caches: dict[int, ConversationMemoryCache] = {}

    def of_batch(self, lanes: Sequence[int], begins: Sequence[int]) -> ConversationMemoryCache:
        """The cache of a batch's lanes, after emptying the lanes of `begins`."""
        number = lanes[0] // self._lanes
        if number not in self._caches:
            self._caches[number] = ConversationMemoryCache(self._config, batch_size=self._lanes)
        cache = self._caches[number]
        rows = cache.conversation_ids or {}
        ended = [rows[lane] for lane in begins if lane in rows]
        if ended:
            cache.reset(ended)
        return cache

    def save(self, folder: str | os.PathLike) -> None:
        """Write the caches into subfolders named by number."""
        for number, cache in self._caches.items():
            if cache.is_initialized:
                cache.save_pretrained(Path(folder) / str(number))

    def load(self, folder: str | os.PathLike, device) -> None:
        """Read the caches that `save` wrote."""
        self._caches = {
            int(path.name): ConversationMemoryCache.from_pretrained(path, self._config).to(device)
            for path in Path(folder).iterdir()
            if path.is_dir()
        }
