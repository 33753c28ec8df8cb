"""The states of many conversations by name: recently used ones in memory, others on disk, with a time to live."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils import logging

from .conversation_memory_cache import ConversationMemoryCache
from .deprecation import warn_renamed
from .host_types import AudioHost
from .state_folder import ConversationInUse, SharedStates, StateFolder, StatesInUse, state_key
from .turn_rules import check_flag


__all__ = ["LOST", "ConversationInUse", "ConversationStore", "StateFolder", "StatesInUse", "state_key"]

logger = logging.get_logger(__name__)

# Key in the notes of a conversation whose earlier turns were lost because a process was killed.
LOST = "history_lost"


@dataclass
class _Entry:
    """A conversation in memory; its cache is None until it is first loaded."""

    cache: ConversationMemoryCache | None = None
    users: int = 0
    used_at: float = 0.0  # by the monotonic clock
    holder: int | None = None  # the thread that uses it
    is_noted: bool = False  # recorded on disk as being held in memory only
    lock: threading.Lock = field(default_factory=threading.Lock)


class ConversationStore:
    """The states of many conversations of a model, for servers; used from any number of threads.

        store = ConversationStore(model, "states")
        with store.conversation("call 17") as cache:
            model(**inputs, memory_cache=cache)

    Args:
        model: a model with memory; states written by other weights are rejected.
        states: where states that are not in memory are stored as safetensors: a folder, from which a later store can
            load them; None: a temporary folder; or `SharedStates`, or a `StateFolder` that no other store was given.
            If it is shared with other processes, no state is kept in memory, and each is written immediately after
            use.
        max_live: number of conversations kept in memory; beyond it, the least recently used are moved to disk, and
            are restored bit-identically. States still in memory when a process ends without `save` are lost;
            `cache.notes["history_lost"]` then reports it.
        time_to_live: seconds after which an unused conversation is forgotten (checked when the store is used).
        log_name: returns the name under which a conversation appears in logs.

    Attributes:
        counts: how many states were "evicted" to where states lie, "restored" from there, "expired", or "lost" with a
            process that was killed.

    A store belongs to the process that created it. In a fork of that, `save` and `close` do nothing, and other methods
    raise RuntimeError.

    Raises:
        StatesInUse: if another process, or another store that is not closed, uses the folder.
        ValueError: for a `max_live` below 1 or a `time_to_live` that is not above 0.
    """

    def __init__(
        self,
        model: AudioHost,
        states: StateFolder | SharedStates | str | Path | None = None,
        *,
        max_live: int = 64,
        time_to_live: float = 3600.0,
        log_name: Callable[[str], str] = repr,
    ):
        if not isinstance(max_live, int) or max_live < 1 or not time_to_live > 0:
            raise ValueError(
                f"max_live must be at least 1 and time_to_live above 0, got {max_live} and {time_to_live}."
            )
        self._model, self._max_live, self._time_to_live = model, max_live, time_to_live
        self._states: StateFolder | SharedStates = (
            StateFolder(states) if states is None or isinstance(states, str | Path) else states
        )
        if isinstance(self._states, StateFolder):
            self._states.take()
        self._log_name = log_name
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._live: OrderedDict[str, _Entry] = OrderedDict()
        self._cleaned_at = -math.inf
        self._is_closed = False
        self.counts: Counter[str] = Counter()

    def part(self, name: str) -> ConversationStore:
        """Another store of the same model, with the same limits, whose states are apart from those of this one."""
        return ConversationStore(
            self._model,
            self._states.part(name),
            max_live=self._max_live,
            time_to_live=self._time_to_live,
            log_name=self._log_name,
        )

    @property
    def live(self) -> list[str]:
        """Names of the conversations in memory, most recently used last."""
        self._check_process()
        with self._lock:
            return list(self._live)

    def names(self) -> list[str]:
        """Names of all conversations that are not forgotten, in memory or stored, in alphabetical order."""
        self._check_process()
        with self._lock:
            live = {name for name, entry in self._live.items() if entry.cache is not None}
        return sorted({*live, *self._states.names()})

    def forget_expired(self) -> None:
        """Forget the conversations that nobody used for their time to live, also where the store is not used."""
        self._check_process()
        with self._lock:
            self._forget_expired()

    @contextlib.contextmanager
    def conversation(
        self, name: str, *, reset: bool = False, discard_unreadable: bool = False, anew: bool | None = None
    ) -> Iterator[ConversationMemoryCache]:
        """The state of a conversation, created if the name is new; for one caller at a time.

        Changes made within the block are kept; if the block raises, the state is restored.

        Args:
            name: name of the conversation.
            reset: start the conversation from scratch.
            discard_unreadable: start it from scratch only if its stored state is broken or belongs to another model.
            anew: deprecated name of `reset`.

        Raises:
            ValueError: for a stored state that is broken or belongs to another model, unless `reset` or
                `discard_unreadable` is set, or flags that are not bools.
            TypeError: for a name that is not a string.
            RuntimeError: if this thread is already using it, the store is closed, or this process is a fork.
            ConversationInUse: if states are shared and another process is using it.
            OSError: if states are shared and the new one cannot be written; the stored state is then unchanged.
        """
        if anew is not None:
            warn_renamed("anew", "reset")
            reset = anew
        check_flag(reset, "reset")
        check_flag(discard_unreadable, "discard_unreadable")
        with self._entry(name) as entry, self._states.lock(name):
            if reset:
                cache = self._new()
            elif entry.cache is None:
                cache = self._load(name, discard_unreadable=discard_unreadable)
            else:
                cache = entry.cache
            before = cache.snapshot()
            try:
                yield cache
                is_empty = not bool(cache.turns.any()) and not cache.notes
                if self._states.is_shared and not is_empty:
                    self._states.write(name, cache.to_bytes(), self._time_to_live)
                elif reset or is_empty:
                    self._states.delete(name)
                    entry.is_noted = False
            except BaseException:
                # The entry is unchanged: without a cache, if none was in memory before.
                cache.restore(before)
                raise
            if not self._states.is_shared:
                entry.cache = None if is_empty else cache
                self._note(name, entry)
            entry.used_at = time.monotonic()

    def peek(self, name: str) -> ConversationMemoryCache | None:
        """A copy of a conversation's present state, for reading only; None if there is none.

        Raises:
            ValueError: for a stored state that is broken or belongs to another model.
            TypeError: for a name that is not a string.
            RuntimeError: if this thread is using the conversation, or this process is a fork.
        """
        state_key(name)
        self._check_process()
        with self._lock:
            entry = self._live.get(name)
            self._check_holder(name, entry)
        if entry is not None:
            with entry.lock:
                if entry.cache is not None:
                    return entry.cache.snapshot()
        content = self._states.read(name)
        return None if content is None else self._from_bytes(content, name)

    def save(self) -> None:
        """Write all conversations in memory to disk, as before a server stops.

        Raises:
            OSError: naming those that could not be written; the others are written.
        """
        failed: dict[str, OSError] = {}
        for name in self.live if self._is_own_process else ():
            with self._entry(name) as entry:
                try:
                    self._write(name, entry)
                except OSError as error:
                    failed[name] = error
        if failed:
            raise OSError(f"The conversations {sorted(failed)} cannot be written: {next(iter(failed.values()))}")

    def close(self) -> None:
        """Write all conversations in memory to disk, and let another store use the folder; closing twice is allowed.

        Raises:
            OSError: as `save`; the store is then not closed.
        """
        if self._is_own_process and not self._is_closed:
            self.save()
            self._is_closed = True
            if isinstance(self._states, StateFolder):
                self._states.close()

    @property
    def _is_own_process(self) -> bool:
        return os.getpid() == self._process

    def _check_process(self) -> None:
        """Reject use in a fork, whose copies of the states in memory differ from the original's from now on."""
        if not self._is_own_process:
            raise RuntimeError(
                "The store belongs to the process of which this one is a fork: create a store in each process, with "
                "its own folder, or with states in Redis for the same conversations."
            )

    def _check_holder(self, name: str, entry: _Entry | None) -> None:
        """Reject a conversation that this thread is using, for which it would wait for ever."""
        if entry is not None and entry.holder == threading.get_ident():
            raise RuntimeError(f"The conversation {name!r} is already in use by this thread.")

    @contextlib.contextmanager
    def _entry(self, name: str) -> Iterator[_Entry]:
        state_key(name)  # checks the name before anything is changed
        self._check_process()
        if self._is_closed:
            raise RuntimeError("The store is closed.")
        with self._lock:
            self._forget_expired()
            entry = self._live.setdefault(name, _Entry(used_at=time.monotonic()))
            self._check_holder(name, entry)
            entry.users += 1
        try:
            with entry.lock:
                entry.holder = threading.get_ident()
                try:
                    yield entry
                finally:
                    entry.holder = None
        finally:
            with self._lock:
                entry.users -= 1
                if entry.cache is None and not entry.users:
                    del self._live[name]
                else:
                    self._live.move_to_end(name)
                self._make_room()

    def _make_room(self) -> None:
        for name in list(self._live):
            if len(self._live) <= self._max_live:
                return
            entry = self._live[name]
            if entry.users:
                continue
            try:
                self._write(name, entry)
            except OSError as error:
                logger.warning(
                    f"The conversation {self._log_name(name)} stays in memory: writing it to disk failed with {error}"
                )
                return
            self.counts["evicted"] += 1
            del self._live[name]

    def _forget_expired(self) -> None:
        now = time.monotonic()
        for name, entry in list(self._live.items()):
            if not entry.users and now - entry.used_at > self._time_to_live:
                del self._live[name]
                self.counts["expired"] += 1
                if not self._states.is_shared:
                    self._states.delete(name)
        # The whole folder is scanned only occasionally.
        if now - self._cleaned_at >= self._time_to_live / 20:
            self._cleaned_at = now
            self._states.forget_old()

    def _load(self, name: str, *, discard_unreadable: bool) -> ConversationMemoryCache:
        content = self._states.read(name)
        if content is None:
            cache = self._new()
            if not self._states.is_shared and self._states.is_lost(name):
                cache.notes = {LOST: True}
                self.counts["lost"] += 1
            return cache
        try:
            cache = self._from_bytes(content, name).to(self._model.titans_memory.device)
        except ValueError:
            if not discard_unreadable:
                raise
            return self._new()
        self.counts["restored"] += 1
        return cache

    def _from_bytes(self, content: bytes, name: str) -> ConversationMemoryCache:
        model, known = self._model, self._model.titans_memory.fingerprint()
        name = f"of conversation {name!r}"
        return model.memory_cache_class.from_bytes(content, model.config, weights_fingerprint=known, name=name)

    def _new(self) -> ConversationMemoryCache:
        return self._model.memory_cache_class(self._model.config)

    def _note(self, name: str, entry: _Entry) -> None:
        """Mark the stored state as outdated, so that it is not used if the process is killed."""
        if entry.cache is not None and not entry.is_noted and not self._states.is_shared:
            self._states.keep_in_memory(name)
            entry.is_noted = True

    def _write(self, name: str, entry: _Entry) -> None:
        if entry.cache is not None:
            left = self._time_to_live - (time.monotonic() - entry.used_at)
            self._states.write(name, entry.cache.to_bytes(), left)
            entry.is_noted = False
