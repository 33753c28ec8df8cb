"""Find audio files despite differences between copies of a corpus: capital suffixes, other formats, nested folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from .problems import Problem
from .table import Turn


# In order of preference, if a folder holds a file in several formats.
SUFFIXES = (
    ".mp4", ".wav", ".flac", ".mkv", ".m4a", ".aac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".wma", ".webm",
    ".mov", ".w64", ".caf", ".amr", ".wv", ".avi", ".asf", ".sph",
)  # fmt: skip
# Depth of the search below the given folder.
DEPTH = 4


def audio_files(folder: Path) -> Iterator[Path]:
    """The visible audio files of a folder, in any order."""
    yield from (folder / name for name in os.listdir(folder) if is_audio(name))


def find_audio(root: Path, *folders: str, stem: str = "*") -> Path:
    """The first folder with a matching audio file, in `root` or up to three levels below.

    Args:
        folders: names of the folder, in order of preference; "" = any name.
        stem: pattern of the file's name without its suffix, in lower case.

    Raises:
        FileNotFoundError: if there is none.
    """
    for depth in range(DEPTH):
        for name in folders:
            levels = "*/" * depth + name
            for folder in sorted(root.glob(levels)) if levels else [root]:
                if folder.is_dir() and any(fnmatchcase(path.stem.lower(), stem) for path in audio_files(folder)):
                    return folder
    wanted = " or ".join(filter(None, folders)) or "folder"
    files = "audio files" if stem == "*" else f"audio files named {stem}"
    raise FileNotFoundError(f"No {wanted} with {files} was found in {root} or up to three folder levels below it.")


def extra_files(folder: Path, known: Iterable[str], split: str | None = None) -> list[Problem]:
    """A problem for each audio file of a folder that belongs to no turn."""
    stems = {_key(os.path.basename(path)) for path in known}
    names = os.listdir(folder) if folder.is_dir() else []
    # Paths are made for the few extra files only, since corpora have hundreds of thousands.
    extra = sorted(folder / name for name in names if is_audio(name) and _key(name) not in stems)
    return [Problem("extra", str(path), "the corpus' table has no such turn", split=split) for path in extra]


def resolve_files(turns: Iterable[Turn]) -> list[Problem]:
    """Correct the paths of turns whose file has another capitalisation or format.

    Returns:
        A problem of the kind "renamed" for each folder with such files.
    """
    listings: dict[str, dict[str, str]] = {}
    renamed: dict[str, list[tuple[str, str]]] = {}
    for turn in turns:
        folder, name = os.path.split(turn.audio)
        if folder not in listings:
            listings[folder] = _listing(folder)
        present = listings[folder]
        if present.get(name) == name:
            continue
        found = present.get(name.lower()) or present.get(_key(name))
        if found is not None:
            turn.audio = os.path.join(folder, found)
            renamed.setdefault(folder, []).append((name, found))
    return [
        Problem(
            "renamed", folder, f"{len(pairs)} files; the first is named {pairs[0][1]!r} instead of {pairs[0][0]!r}"
        )
        for folder, pairs in renamed.items()
    ]


def is_audio(name: str) -> bool:
    """Whether the name is that of a visible audio file."""
    return name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES


def _key(name: str) -> str:
    """A file's name without its suffix, marked by `.*`."""
    return os.path.splitext(name)[0].lower() + ".*"


def _listing(folder: str) -> dict[str, str]:
    """A folder's files by name, by name in lower case, and, for audio files, by name without suffix."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    by_stem = {_key(name): name for name in sorted(filter(is_audio, names), key=_preference, reverse=True)}
    return by_stem | {name.lower(): name for name in names} | {name: name for name in names}


def _preference(name: str) -> int:
    return SUFFIXES.index(os.path.splitext(name)[1].lower())
