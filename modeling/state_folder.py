"""States of conversations in a folder that one process has to itself, and which of them a killed process lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .conversation_memory_file import STATE_FILE, read_state, write_state


fcntl: Any
try:
    import fcntl
except ImportError:  # not on Windows, where folders are not locked
    fcntl = None

logger = logging.get_logger(__name__)

_OWN_NAME = re.compile("[0-9a-f]{32}")
_LONGEST = 100 * 365 * 24 * 3600.0
# Beside a state: the conversation is in the memory of a process, and only there; it was when that process ended.
_AT_HAND, _LOST = "at_hand", "lost"
# For which it is remembered that the history of a conversation was lost.
_LOST_SECONDS = 24 * 3600.0


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


class StatesInUse(OSError):
    """Another process has the folder of states."""


class StateFolder:
    """States of conversations in a folder, one sub-folder each; it belongs to one process at a time.

    A conversation that a process has in memory lies nowhere else. Where the process is killed, the next one to use the
    folder warns of what was lost, and `take` says so of each such conversation for a day.

    Args:
        folder: is made if it does not exist; None: a temporary one, which goes with the object.

    Raises:
        StatesInUse: if another process has the folder (on systems that can lock one).
    """

    # Whether other processes write to the same states.
    is_shared = False

    def __init__(self, folder: str | Path | None = None):
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="conversations-")
            folder = self._temporary.name
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        is_first = _lock_folder(self._folder.resolve())
        weakref.finalize(self, _unlock_folder, self._folder.resolve())
        if is_first:
            self._find_lost()

    def read(self, name: str) -> bytes | None:
        """The state of a conversation; None where there is none."""
        folder = self._folder / state_key(name)
        try:
            return None if _is_over(folder / STATE_FILE) else read_state(folder)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, seconds: float) -> None:
        """Keep a state for so many seconds."""
        folder, now = self._folder / state_key(name), time.time()
        write_state(folder, content)
        # The time of a file is that at which it is to be forgotten.
        os.utime(folder / STATE_FILE, (now, now + min(seconds, _LONGEST)))
        (folder / _AT_HAND).unlink(missing_ok=True)

    def keep_in_memory(self, name: str) -> None:
        """Note that a conversation is in memory from now on, so that an older state is not taken for it."""
        folder = self._folder / state_key(name)
        try:
            folder.mkdir(exist_ok=True)
            (folder / _AT_HAND).touch()
        except OSError as error:
            logger.warning_once(f"Were the process killed, it would not be noticed what was lost: {error}")
        (folder / STATE_FILE).unlink(missing_ok=True)

    def is_lost(self, name: str) -> bool:
        """Whether a process was killed that had the conversation in memory."""
        path = self._folder / state_key(name) / _LOST
        return path.is_file() and not _is_over(path)

    def delete(self, name: str) -> None:
        """Forget a conversation, and that it was lost."""
        _delete(self._folder / state_key(name))

    def forget_old(self) -> None:
        """Delete what was to be kept until now."""
        for name in (STATE_FILE, _LOST):
            for path in self._folder.glob(f"*/{name}"):
                if _OWN_NAME.fullmatch(path.parent.name) and _is_over(path):
                    path.unlink(missing_ok=True)
                    _remove_if_empty(path.parent)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keeps other processes from a conversation; here there are none."""
        yield

    def _find_lost(self) -> None:
        marks = [path for path in self._folder.glob(f"*/{_AT_HAND}") if _OWN_NAME.fullmatch(path.parent.name)]
        now = time.time()
        for path in marks:
            with contextlib.suppress(OSError):
                os.utime(path.replace(path.with_name(_LOST)), (now, now + _LOST_SECONDS))
        if marks:
            logger.warning(
                f"{len(marks)} conversations of {self._folder} were in the memory of a process that was killed: what "
                "was said in them is lost. Their next turns say so."
            )


def _is_over(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time()
    except FileNotFoundError:
        return False


def _delete(folder: Path) -> None:
    for name in (STATE_FILE, _AT_HAND, _LOST):
        (folder / name).unlink(missing_ok=True)
    _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # where somebody put something beside it
        folder.rmdir()


# The folders that this process has locked, and how many objects use each.
_locks: dict[Path, int] = {}
_users: Counter[Path] = Counter()
_guard = threading.Lock()


def _lock_folder(folder: Path) -> bool:
    """Lock a folder for this process; whether it had it not before.

    Raises:
        StatesInUse: if another process has it.
    """
    with _guard:
        _users[folder] += 1
        if _users[folder] > 1 or fcntl is None:
            return _users[folder] == 1
        file = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                del _users[folder]
                raise StatesInUse(
                    f"Another process has the states in {folder}: give each server a folder of its own, or Redis to "
                    "several servers of the same conversations."
                ) from None
            logger.warning(f"The states in {folder} cannot be locked ({error}): let one process use them.")
            return True
        _locks[folder] = file
        return True


def _unlock_folder(folder: Path) -> None:
    with _guard:
        _users[folder] -= 1
        if _users[folder] <= 0:
            del _users[folder]
            if folder in _locks:
                os.close(_locks.pop(folder))
