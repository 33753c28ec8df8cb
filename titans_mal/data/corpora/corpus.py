"""Description of a corpus, and functions shared by the readers."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from ..audio_paths import DEPTH, extra_files, find_audio
from ..problems import Problem
from ..table import FEMALE, MALE, LabelSet, Turn
from ..text_files import read_text


class ClipReader(Protocol):
    """Makes the turn of a table row, whose clip is in the folder of its split."""

    def __call__(self, row: dict[str, str], /, clips: Path, split: str) -> Turn: ...


@dataclass(frozen=True)
class Corpus:
    """A corpus that `load_conversations` knows.

    Attributes:
        name, title: names for arguments and for messages.
        read: from the corpus' folder to all of its turns, in any order, and problems such as files without a turn.
        label_sets: by name, from the corpus' words to labels; the first is the default.
        fold_groups: the test group of each fold; empty for a corpus with its own splits.
        licence: its public licence; None if there is none, such as for a corpus that is given to applicants.
    """

    name: str
    title: str
    read: Callable[[Path], tuple[list[Turn], list[Problem]]]
    label_sets: Mapping[str, Mapping[str, str]]
    fold_groups: tuple[str, ...] = ()
    licence: str | None = None

    @property
    def words(self) -> set[str]:
        """All words for emotions that some label set knows."""
        return {word for known in self.label_sets.values() for word in known}

    def label_set(self, wanted: str | Sequence[str] | Mapping[str, str] | None) -> LabelSet:
        """The label set with a given name, of given labels, or for a mapping from the corpus' words.

        Raises:
            ValueError: for an unknown name or unknown words, naming the known ones.
        """
        if wanted is None or isinstance(wanted, str):
            name = next(iter(self.label_sets)) if wanted is None else wanted
            if name not in self.label_sets:
                raise ValueError(f"label_set of {self.title} must be one of {list(self.label_sets)}, got {wanted!r}.")
            return LabelSet(name, dict(self.label_sets[name]))
        mapping = dict(wanted) if isinstance(wanted, Mapping) else {word: word for word in wanted}
        unknown = sorted(set(mapping) - self.words)
        if unknown:
            raise ValueError(f"{self.title} has no labels {unknown}; it has {sorted(self.words)}.")
        return LabelSet("own", mapping)

    def split_of(self, turn: Turn, fold: int | None) -> str:
        """The split that a turn belongs to."""
        if fold is None or not self.fold_groups:
            return turn.group
        return "test" if turn.group == self.fold_groups[fold - 1] else "train"

    def check_fold(self, fold: int | None) -> None:
        """Raise ValueError naming the valid folds, if `fold` is not one of them."""
        if fold is None:
            return
        if not self.fold_groups:
            raise ValueError(f"{self.title} has its own splits and no folds, got fold={fold!r}.")
        if isinstance(fold, bool) or not isinstance(fold, int) or not 1 <= fold <= len(self.fold_groups):
            raise ValueError(f"fold of {self.title} must be in 1..{len(self.fold_groups)}, got {fold!r}.")


def gender_of(written: object) -> str | None:
    """The gender from a corpus's own notation, such as "F", "Male" or "女"; None if it is not known."""
    word = str(written).strip().lower()
    return {"f": FEMALE, "female": FEMALE, "女": FEMALE, "m": MALE, "male": MALE, "男": MALE}.get(word)


def same(*words: str) -> dict[str, str]:
    """A label set whose labels are the words themselves."""
    return {word: word for word in words}


def find(root: Path, *names: str) -> Path:
    """The file or folder with one of these names in `root` or up to three levels below (copies differ).

    Raises:
        FileNotFoundError: if there is none.
    """
    for depth in range(DEPTH):
        for name in names:
            found = sorted(path for path in root.glob("*/" * depth + name) if not path.name.startswith("._"))
            if found:
                return found[0]
    above = [name for name in names if any(root.parent.glob(name))]
    hint = f" The folder above it has {above[0]}: give that folder." if above else ""
    raise FileNotFoundError(
        f"No {' or '.join(names)} was found in {root} or up to three folder levels below it.{hint}"
    )


def read_csv(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """The lines of a table, in any of the encodings that `read_text` supports.

    Raises:
        ValueError: if a column is missing.
    """
    text = read_text(path)
    # Quotation marks and dashes of Windows-1252 that were decoded as control characters.
    text = re.sub("[\x80-\x9f]", lambda found: found[0].encode("latin-1").decode("cp1252", "ignore"), text)
    reader = csv.DictReader(StringIO(text, newline=""))
    missing = sorted(set(columns) - set(reader.fieldnames or ()))
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}.")
    yield from reader


def turns_of_csv(
    path: Path, columns: Iterable[str], as_turn: Callable[[dict[str, str]], Turn], split: str | None = None
) -> tuple[list[Turn], list[Problem]]:
    """Parse each line of a table, with fields stripped, into a turn; unreadable lines become problems."""
    turns, problems = [], []
    for number, row in enumerate(read_csv(path, columns), start=1):
        try:
            turns.append(as_turn({name: (value or "").strip() for name, value in row.items() if name is not None}))
        except (ValueError, SyntaxError) as error:
            problems.append(Problem("unreadable", str(path), f"row {number}: {error}", split=split))
    return turns, problems


def turns_of_json(
    path: Path, place: str, listed: Any, as_turn: Callable[[str, Any], Turn], split: str | None = None
) -> tuple[list[Turn], list[Problem]]:
    """A turn of each entry of a JSON object, and what cannot be read.

    Args:
        path: path of the file, for problems.
        place: place of the object in the file.
        listed: what should be the object, from the name of each turn to its fields.
        as_turn: makes the turn from its name and its fields.
        split: split of the turns, for problems.
    """
    if not isinstance(listed, dict):
        return [], [Problem("unreadable", str(path), f"{place} has no turns", split=split)]
    turns, problems = [], []
    for name, fields in listed.items():
        try:
            turns.append(as_turn(name, fields))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            problems.append(Problem("unreadable", str(path), f"{place}, turn {name}: {fault}", split=split))
    return turns, problems


def read_clips(
    root: Path,
    splits: Mapping[str, tuple[str, Sequence[str]]],
    columns: Iterable[str],
    as_turn: ClipReader,
) -> tuple[list[Turn], list[Problem]]:
    """The turns of a corpus with a table and a folder of clips for each split.

    Args:
        splits: for each split, the name of its table and possible names of its folder, the original one first.
        columns: required columns of the tables.
        as_turn: makes the turn of a row.

    Raises:
        FileNotFoundError: if the table or clips of all splits are missing; for a single split this is a problem.
    """
    turns, problems, missing = [], [], []
    for split, (table, folders) in splits.items():
        try:
            path, clips = find(root, table), find_audio(root, *folders)
        except FileNotFoundError as error:
            missing.append(error)
            problems.append(Problem("absent", str(root), f"there is no turn of {split}: {error}"))
            continue
        part, unreadable = turns_of_csv(path, columns, partial(as_turn, clips=clips, split=split), split)
        problems += unreadable + extra_files(clips, [turn.audio for turn in part], split)
        turns += part
    if len(missing) == len(splits):
        raise missing[0]
    return turns, problems
