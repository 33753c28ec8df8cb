"""Many conversations by name: the latest ones at hand, the others on disk, each for a time."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import logging

from .conversation_memory_cache import ConversationMemoryCache
from .conversation_memory_file import STATE_FILE, read_state, write_state


logger = logging.get_logger(__name__)


def state_key(name: str) -> str:
    """What stands for a conversation's name where states lie: whatever the name is, it leads to no other place.

    Raises:
        TypeError: for a name that is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"A conversation is named by text, got {type(name).__name__}.")
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ConversationInUse(OSError):
    """Another process has the conversation just now."""


class StateFolder:
    """States of conversations in a folder, one sub-folder each; it belongs to one store at a time.

    Args:
        folder: is made if it does not exist; None: a temporary one, which goes with the object.
    """

    # Whether other processes write to the same states.
    is_shared = False

    def __init__(self, folder: str | Path | None = None):
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="conversations-")
            folder = self._temporary.name
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> bytes | None:
        """The state of a conversation; None where there is none."""
        folder = self._folder / state_key(name)
        try:
            return None if _is_over(folder) else read_state(folder)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, seconds: float) -> None:
        """Keep a state for so many seconds."""
        folder, now = self._folder / state_key(name), time.time()
        write_state(folder, content)
        # The time of a file is that at which it is to be forgotten.
        os.utime(folder / STATE_FILE, (now, now + min(seconds, _LONGEST)))

    def delete(self, name: str) -> None:
        _delete(self._folder / state_key(name))

    def forget_old(self) -> None:
        """Delete what was to be kept until now."""
        for path in self._folder.glob(f"*/{STATE_FILE}"):
            if _OWN_NAME.fullmatch(path.parent.name) and _is_over(path.parent):
                _delete(path.parent)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keeps other processes from a conversation; here there are none."""
        yield


_OWN_NAME = re.compile("[0-9a-f]{32}")
_LONGEST = 100 * 365 * 24 * 3600.0


def _is_over(folder: Path) -> bool:
    try:
        return (folder / STATE_FILE).stat().st_mtime < time.time()
    except FileNotFoundError:
        return False


def _delete(folder: Path) -> None:
    (folder / STATE_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # where somebody put something beside it
        folder.rmdir()


@dataclass
class _Entry:
    """A conversation at hand; its cache is None before it was first looked for."""

    cache: ConversationMemoryCache | None = None
    users: int = 0
    used_at: float = 0.0  # by the monotonic clock
    holder: int | None = None  # the thread that has it
    lock: threading.Lock = field(default_factory=threading.Lock)


class ConversationStore:
    """The states of many conversations of a model, for servers; used from any number of threads.

        store = ConversationStore(model, "states")
        with store.conversation("call 17") as cache:
            model(**inputs, memory_cache=cache)

    Args:
        model: with memory; what was written by other weights is refused.
        states: where states lie that are not at hand, in safetensors: a folder, in which a later store finds them;
            None: a temporary one; or what has the methods of `StateFolder`. Where other processes share them, none is
            kept at hand, and each is written as soon as it was used.
        max_live: conversations at hand; of more, the least recently used go to disk, and come back bit by bit. What
            was at hand when a process ends without `save` is forgotten.
        time_to_live: seconds after which a conversation that nobody used is forgotten, when the store is used next.

    Raises:
        ValueError: for a `max_live` below 1 or a `time_to_live` that is not above 0.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        states: StateFolder | str | Path | None = None,
        *,
        max_live: int = 64,
        time_to_live: float = 3600.0,
    ):
        if not isinstance(max_live, int) or max_live < 1 or not time_to_live > 0:
            raise ValueError(
                f"max_live is a number of at least 1 and time_to_live above 0, got {max_live} and {time_to_live}."
            )
        self._model, self._max_live, self._time_to_live = model, max_live, time_to_live
        self._states = StateFolder(states) if states is None or isinstance(states, str | Path) else states
        self._lock = threading.Lock()
        self._live: OrderedDict[str, _Entry] = OrderedDict()
        self._cleaned_at = -math.inf

    @property
    def live(self) -> list[str]:
        """The names of the conversations at hand, the latest last."""
        with self._lock:
            return list(self._live)

    @contextlib.contextmanager
    def conversation(self, name: str, *, anew: bool = False) -> Iterator[ConversationMemoryCache]:
        """The state of a conversation, a new one where the name is new; for one caller at a time.

        What is written to it within the block is kept, unless the block raises: then it is as it was before.

        Args:
            name: of the conversation.
            anew: forget what was said so far.

        Raises:
            ValueError: for a stored state that is broken or belongs to another model, unless it is begun anew.
            TypeError: for a name that is no text.
            RuntimeError: if this very thread has it in use already.
            ConversationInUse: where states are shared, if another process has it in use.
            OSError: where states are shared, if the new one cannot be written; it is as it was before.
        """
        with self._entry(name) as entry, self._states.lock(name):
            if entry.cache is None and not anew:
                entry.cache = self._load(name)
            cache = self._new() if anew else entry.cache
            before = cache.snapshot()
            try:
                yield cache
                is_empty = not bool(cache.turns.any()) and not cache.notes
                if self._states.is_shared and not is_empty:
                    self._states.write(name, cache.to_bytes(), self._time_to_live)
                elif anew or is_empty:
                    self._states.delete(name)
            except BaseException:
                cache.restore(before)
                raise
            finally:
                if self._states.is_shared:
                    entry.cache = None
            if not self._states.is_shared:
                entry.cache = None if is_empty else cache
            entry.used_at = time.monotonic()

    def peek(self, name: str) -> ConversationMemoryCache | None:
        """A copy of a conversation's present state, which is not used by that; None where there is none.

        Raises:
            ValueError: for a stored state that is broken or belongs to another model.
        """
        state_key(name)
        with self._lock:
            entry = self._live.get(name)
        if entry is not None:
            with entry.lock:
                if entry.cache is not None:
                    return entry.cache.snapshot()
        content, model = self._states.read(name), self._model
        if content is None:
            return None
        return model.memory_cache_class.from_bytes(content, model.config, name=f"of conversation {name!r}")

    def save(self) -> None:
        """Write all conversations at hand to disk, as before a server stops.

        Raises:
            OSError: naming those that cannot be written; the others are.
        """
        failed = {}
        for name in self.live:
            with self._entry(name) as entry:
                try:
                    self._write(name, entry)
                except OSError as error:
                    failed[name] = error
        if failed:
            raise OSError(f"The conversations {sorted(failed)} cannot be written: {next(iter(failed.values()))}")

    @contextlib.contextmanager
    def _entry(self, name: str) -> Iterator[_Entry]:
        state_key(name)  # a name that is none is refused before anything is changed
        with self._lock:
            self._forget_expired()
            entry = self._live.setdefault(name, _Entry(used_at=time.monotonic()))
            if entry.holder == threading.get_ident():
                raise RuntimeError(f"The conversation {name!r} is in use by this very thread.")
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
                logger.warning(f"The conversation {name!r} stays at hand, for it cannot be written to disk: {error}")
                return
            del self._live[name]

    def _forget_expired(self) -> None:
        now = time.monotonic()
        for name, entry in list(self._live.items()):
            if not entry.users and now - entry.used_at > self._time_to_live:
                del self._live[name]
        # All of the folder is looked through now and then.
        if now - self._cleaned_at >= self._time_to_live / 20:
            self._cleaned_at = now
            self._states.forget_old()

    def _load(self, name: str) -> ConversationMemoryCache:
        content, model = self._states.read(name), self._model
        if content is None:
            return self._new()
        cache = model.memory_cache_class.from_bytes(content, model.config, name=f"of conversation {name!r}")
        if not self._states.is_shared:
            # Were the process to end now, an older state must not be taken for the present one.
            self._states.delete(name)
        return cache.to(model.titans_memory.device)

    def _new(self) -> ConversationMemoryCache:
        return self._model.memory_cache_class(self._model.config)

    def _write(self, name: str, entry: _Entry) -> None:
        if entry.cache is not None:
            left = self._time_to_live - (time.monotonic() - entry.used_at)
            self._states.write(name, entry.cache.to_bytes(), left)
