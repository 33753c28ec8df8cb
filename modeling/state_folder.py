"""Conversation states in a folder used by one store, and detection of states lost by a killed process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from transformers.utils import logging

from .conversation_memory_file import STATE_FILE, read_state, write_state


fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows, where folders are not locked
    fcntl = None

logger = logging.get_logger(__name__)

_OWN_NAME = re.compile("[0-9a-f]{32}")
_LONGEST = 100 * 365 * 24 * 3600.0
# Marker files beside a state: a process holds the conversation in memory only; that process ended without saving it.
_AT_HAND, _LOST = "at_hand", "lost"
# Beside a state, too: the name of its conversation, which its folder's name does not give away.
_NAME = "name"
# How long the loss of a conversation's history is remembered.
_LOST_SECONDS = 24 * 3600.0


def state_key(name: str) -> str:
    """A file name for a conversation, safe for any conversation name.

    Raises:
        TypeError: for a name that is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"A conversation's name must be a string, got {type(name).__name__}.")
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ConversationInUse(OSError):
    """Another process is using the conversation."""


class StatesInUse(OSError):
    """Another process, or another store of this one, is using the folder of states."""


class SharedStates(Protocol):
    """Conversation states that several processes use, none of which holds one between its calls.

    The methods are those of `StateFolder`; `lock` raises `ConversationInUse`.
    """

    is_shared: Literal[True]

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes, seconds: float) -> None: ...

    def delete(self, name: str) -> None: ...

    def names(self) -> list[str]: ...

    def forget_old(self) -> None: ...

    def lock(self, name: str) -> AbstractContextManager[None]: ...

    def part(self, name: str) -> SharedStates: ...


class StateFolder:
    """Conversation states in a folder, one subfolder each, for one object at a time, until it is closed or deleted.

    The state of a conversation that a process holds in memory is not on disk. If that process is killed, the next
    process to use the folder warns of the loss, and `is_lost` returns True for each such conversation for a day, or
    until a process holds it again.

    Args:
        folder: created if it does not exist; None: a temporary folder, deleted with the object.

    Raises:
        StatesInUse: if another process, or another object of this one, uses the folder (on systems that can lock one).
    """

    # Whether other processes write to the same states.
    is_shared: Literal[False] = False

    def __init__(self, folder: str | Path | None = None):
        if folder is None:
            folder = tempfile.mkdtemp(prefix="conversations-")
            weakref.finalize(self, _delete_temporary, folder, os.getpid())
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._names: dict[str, bytes] = {}
        self._is_taken = False
        lock = _lock_folder(self._folder)
        # Closing the file releases the lock, also if the object is deleted without `close`.
        self._release = weakref.finalize(self, lambda: None if lock is None else os.close(lock))
        self._find_lost()

    def take(self) -> None:
        """Reserve this object for a store, which may hold conversations in memory that are not on disk.

        Raises:
            StatesInUse: if another store took it, or it is closed.
        """
        if self._is_taken or not self._release.alive:
            raise StatesInUse(
                f"The `StateFolder` of {self._folder} was given to another store, or is closed: create one for each "
                "store, after closing the store that used the folder before."
            )
        self._is_taken = True

    def close(self) -> None:
        """Let others use the folder; this object must not be used afterwards."""
        self._release()

    def part(self, name: str) -> StateFolder:
        """Other states in a subfolder, apart from these: `name` is a file name that is no state's."""
        return StateFolder(self._folder / name)

    def read(self, name: str) -> bytes | None:
        """The state of a conversation; None if there is none."""
        folder = self._folder / state_key(name)
        try:
            return None if _is_over(folder / STATE_FILE) else read_state(folder)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, seconds: float) -> None:
        """Store a state for `seconds` seconds."""
        folder, now = self._folder / state_key(name), time.time()
        write_state(folder, content)
        # The modification time holds the time of expiry.
        os.utime(folder / STATE_FILE, (now, now + min(seconds, _LONGEST)))
        (folder / _NAME).write_bytes(name.encode("utf-8", "surrogatepass"))
        (folder / _AT_HAND).unlink(missing_ok=True)

    def keep_in_memory(self, name: str) -> None:
        """Record that a conversation is now held in memory; remove its outdated state and the record of a loss.

        The conversation's notes report the loss from now on, for as long as it lasts.
        """
        folder = self._folder / state_key(name)
        try:
            folder.mkdir(exist_ok=True)
            (folder / _AT_HAND).touch()
        except OSError as error:
            logger.warning_once(f"If this process is killed, lost conversations will go unnoticed: {error}")
        for file in (STATE_FILE, _NAME, _LOST):
            (folder / file).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Names of the conversations whose states are stored here, but for those that earlier versions wrote."""
        now, found = time.time(), {}
        with os.scandir(self._folder) as folders:
            stored = [entry.name for entry in folders if _OWN_NAME.fullmatch(entry.name)]
        for key in stored:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(f"{self._folder}/{key}/{STATE_FILE}").st_mtime >= now:
                    # The name of a key never changes, so that each is read once.
                    found[key] = self._names.get(key) or (self._folder / key / _NAME).read_bytes()
        self._names = found
        return sorted(name.decode("utf-8", "surrogatepass") for name in found.values())

    def is_lost(self, name: str) -> bool:
        """Whether a process that held the conversation in memory was killed."""
        path = self._folder / state_key(name) / _LOST
        return path.is_file() and not _is_over(path)

    def delete(self, name: str) -> None:
        """Delete a conversation's state and the record of its loss."""
        _delete(self._folder / state_key(name), (STATE_FILE, _NAME, _AT_HAND, _LOST))

    def forget_old(self) -> None:
        """Delete expired states, each with its name, and expired records of a loss."""
        for files in ((STATE_FILE, _NAME), (_LOST,)):
            for path in self._folder.glob(f"*/{files[0]}"):
                if _OWN_NAME.fullmatch(path.parent.name) and _is_over(path):
                    _delete(path.parent, files)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Lock a conversation against other processes; not needed here, since there are none."""
        yield

    def _find_lost(self) -> None:
        marks = [path for path in self._folder.glob(f"*/{_AT_HAND}") if _OWN_NAME.fullmatch(path.parent.name)]
        now = time.time()
        for path in marks:
            with contextlib.suppress(OSError):
                os.utime(path.replace(path.with_name(_LOST)), (now, now + _LOST_SECONDS))
        if marks:
            logger.warning(
                f"{len(marks)} conversations of {self._folder} were in the memory of a process that was killed: their "
                "earlier turns are lost, and the results of their next turns report it."
            )


def _is_over(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time()
    except FileNotFoundError:
        return False


def _delete(folder: Path, files: Iterable[str]) -> None:
    """Delete files of a state, and its folder if nothing else is in it."""
    for name in files:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # if it holds other files
        folder.rmdir()


def _delete_temporary(folder: str, process: int) -> None:
    """Delete a temporary folder, in the process that created it and not in a fork of that."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _lock_folder(folder: Path) -> int | None:
    """Lock a folder, whatever path leads to it; return the open file that holds the lock, None where none can.

    Raises:
        StatesInUse: if it is locked, by this process or another.
    """
    if fcntl is None:
        return None
    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise StatesInUse(
                f"The states in {folder} are in use by another process, or by another store in this process: "
                "close that store, choose another folder, or share the states of several servers by Redis."
            ) from None
        logger.warning(
            f"The states in {folder} cannot be locked ({error}): do not use them from two stores at the same time."
        )
        return None
    return file
