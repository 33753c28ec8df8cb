"""Problems of a corpus: unusable or corrected turns, found by inspecting every file, counted and listed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datasets import (
    Dataset,
    Features,
    Value,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from .._version import __version__
from ..modeling.audio_source import file_of_part
from ..modeling.shortened import shortened
from .audio import MIN_SECONDS, AudioDecodingError, SilentAudio, audio_seconds, load_audio, part_of_file


MAX_SECONDS = 60.0

# Kinds of problems, and their consequence.
KINDS = {
    "missing": "dropped: the table names a file that does not exist",
    "broken": "dropped: the file is not audio, or truncated",
    "absent": "missing: a whole part of the corpus",
    "repeated": "dropped: the same audio already has a turn",
    "silent": "dropped: every sample is zero",
    "outside": "dropped: the turn has no length, or is beyond the recording",
    "unreadable": "dropped: an unusable line of a table",
    "early": "cut: it starts before 0 s",
    "renamed": "used: the file has another name or format than in the table",
    "long": "cut: only its beginning is used",
    "split": "used: split at pauses into several turns",
    "short": "padded with silence",
    "extra": "ignored: a file that is not in the table",
}
_FINDINGS = Features(
    {"seconds": Value("float64"), "kind": Value("string"), "detail": Value("string"), "path": Value("string")}
)
LEFT_OUT = ("missing", "broken", "absent", "repeated", "silent", "outside", "unreadable")


@dataclass(frozen=True)
class Problem:
    """A problem with a file or turn.

    Attributes:
        kind: one of `KINDS`.
        file: the audio file.
        detail: what was found.
        split, conversation_id, turn_index: of the turn; None if the file belongs to no turn.
    """

    kind: str
    file: str
    detail: str
    split: str | None = None
    conversation_id: str | None = None
    turn_index: int | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {tuple(KINDS)}, got {self.kind!r}.")

    @classmethod
    def of_error(cls, error: Exception, file: str, **turn) -> Problem:
        """The problem of a turn whose audio cannot be loaded, from the error of `load_turn`."""
        kinds = {FileNotFoundError: "missing", SilentAudio: "silent"}
        return cls(kinds.get(type(error), "broken"), file, str(error), **turn)

    def __str__(self) -> str:
        turn = f" ({self.conversation_id}, turn {self.turn_index})" if self.conversation_id is not None else ""
        return f"{self.kind}: {self.file}{turn}: {self.detail}"


class UnusableTurns(ValueError):
    """No turn, or no turn of a split, is usable.

    Attributes:
        problems: all problems.
    """

    def __init__(self, message: str, problems: Sequence[Problem]):
        super().__init__(message)
        self.problems = list(problems)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Disable the progress bars of datasets within this context, for fast operations."""
    was_shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if was_shown:
            enable_progress_bars()


def look_at(audio: dict | None, *, max_seconds: float, decode: bool) -> dict:
    """Length and problems of a turn's audio.

    Args:
        audio: a dict with `bytes` or `path`; None: no audio.
        max_seconds: longer audio is cut.
        decode: decode all of it, instead of reading its header.

    Returns:
        `seconds` (None if dropped), `kind` and `detail` (None without a problem), and `path` of the audio to use.
    """
    if audio is None or not (audio["bytes"] or audio["path"]):
        return {"seconds": None, "kind": "missing", "detail": "there is no audio", "path": None}
    found = {"seconds": None, "kind": None, "detail": None, "path": audio["path"]}
    try:
        seconds = audio_seconds(audio)
        if decode and not load_audio(audio).any():
            return found | {"kind": "silent", "detail": "every sample is zero"}
    except FileNotFoundError:
        return found | {"kind": "missing", "detail": "no such file"}
    except (AudioDecodingError, OSError) as error:  # also a file that nobody may read
        return found | {"kind": "broken", "detail": str(error)}
    if seconds <= 0:
        return found | {"kind": "broken", "detail": "it has no samples"}
    if seconds > max_seconds and audio["bytes"] is None and file_of_part(audio["path"]) == audio["path"]:
        detail = f"{seconds:.1f} s, of which the first {max_seconds:g} s are used"
        part = part_of_file(audio["path"], 0, max_seconds)
        return {"seconds": max_seconds, "kind": "long", "detail": detail, "path": part}
    if seconds < MIN_SECONDS:
        return found | {"seconds": seconds, "kind": "short", "detail": f"{seconds:.3f} s"}
    return found | {"seconds": seconds}


def look_at_all(
    audios: Sequence[str] | Dataset, *, max_seconds: float, decode: bool, num_proc: int | None
) -> list[dict]:
    """`look_at` every audio; results are kept in the cache of datasets until a file changes.

    Args:
        audios: paths, or a dataset with the column `audio`.
        num_proc: number of processes.
    """
    if not isinstance(audios, Dataset):
        content = json.dumps([{"path": path, "stamp": file_stamp(path)} for path in audios])
        with quietly():
            audios = Dataset.from_generator(_paths, gen_kwargs={"content": content})
        stamps = ""
    else:
        paths = audios.flatten().select_columns(["audio.path"])["audio.path"]
        stamps = hashlib.sha256(json.dumps([file_stamp(path or "") for path in paths]).encode()).hexdigest()
    given = {"max_seconds": max_seconds, "decode": decode, "version": __version__, "stamps": stamps}
    looked = audios.map(
        _look_at_row,
        fn_kwargs=given,
        remove_columns=audios.column_names,
        num_proc=num_proc,
        features=_FINDINGS,
        desc="Inspecting audio",
    )
    return looked.to_list()


def _paths(content: str) -> Iterator[dict]:
    for row in json.loads(content):
        yield {"audio": {"bytes": None, "path": row["path"]}, "stamp": row["stamp"]}


def file_stamp(path: str) -> str:
    """A text that changes when a file does, also for a part of a file."""
    try:
        status = os.stat(file_of_part(path))
    except OSError:
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _look_at_row(row: dict, *, max_seconds: float, decode: bool, version: str, stamps: str) -> dict:
    # Version and stamps are part of the cache key: files are inspected again by later versions and when they change.
    return look_at(row["audio"], max_seconds=max_seconds, decode=decode)


def report_problems(problems: Sequence[Problem], *, name: str, strict: bool) -> None:
    """Warn about dropped turns, in one line; with `strict`, raise instead.

    Raises:
        UnusableTurns: with `strict`, naming the first ones, if a turn is dropped.
    """
    left_out = [problem for problem in problems if problem.kind in LEFT_OUT]
    if not left_out:
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(problem.kind for problem in left_out).items())
    if strict:
        text = f"{name}: turns cannot be used ({counts}): {shortened(left_out, separator='; ')}"
        raise UnusableTurns(text, problems)
    warnings.warn(
        f"{name}: turns that cannot be used ({counts}); the first is {left_out[0]}; `.problems` lists them.",
        stacklevel=4,
    )
