"""The table of conversations that everything here works with: one row a turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value

from ..modeling.turn_rules import EARLIEST_START
from .problems import Problem


COLUMNS = (
    "conversation_id",
    "turn_index",
    "speaker",
    "audio",
    "start",
    "end",
    "transcript",
    "emotion",
    "split",
    "seconds",
)
# Of tables whose raters' votes are told: the share of each label, None where a turn is not scored.
SOFT_LABELS = "emotion_probabilities"
# Of tables in which any turn has them: what raters gave as numbers, and groups that results are split by.
DIMENSIONS, GROUPS = ("valence", "arousal", "dominance"), ("gender", "language")
# Without which nothing can be evaluated.
REQUIRED_COLUMNS = ("conversation_id", "turn_index", "speaker", "audio", "emotion")


@dataclass
class Turn:
    """A turn as a reader finds it, before anything is looked up in its sound.

    Attributes:
        conversation_id: the corpus's own name of the conversation.
        speaker: who talks; None where nobody is named.
        audio: path of the sound.
        words: the corpus's own words for the emotion, of which a label set knows one; empty where it has none.
        votes: the words of each rater, where they are told one by one.
        start, end: seconds, in the time of the conversation; None where the corpus does not tell.
        transcript: None where the corpus does not tell.
        group: the corpus's own split, or the unit (a session, some actors) that folds are made of.
        order: what sorts the turns of a conversation.
        turn_index: its place in the conversation; None: as it is sorted.
        more: what the corpus tells of `DIMENSIONS` (numbers) and `GROUPS` (words), where it does.
    """

    conversation_id: str
    speaker: str | None
    audio: str
    words: tuple[str, ...] = ()
    votes: tuple[tuple[str, ...], ...] = ()
    start: float | None = None
    end: float | None = None
    transcript: str | None = None
    group: str = "test"
    order: tuple = ()
    turn_index: int | None = None
    more: dict[str, float | str | None] = field(default_factory=dict)


class Conversations(DatasetDict):
    """A `datasets.DatasetDict` of turns, one dataset a split, that also knows what could not be used.

    Attributes:
        problems: `Problem`s of turns that are missing, broken, cut or padded, and of files that belong to no turn.
    """

    def __init__(self, splits, problems: Iterable[Problem] = ()):
        super().__init__(splits)
        self.problems = list(problems)


@dataclass(frozen=True)
class LabelSet:
    """Which words of a corpus count as which emotion; all others are heard and not scored.

    Attributes:
        name: of the set, as reports give it.
        mapping: from the corpus's word to the label; the labels are numbered in the order of their first mention.
    """

    name: str
    mapping: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(self.mapping.values()))

    def index(self, words: Sequence[str]) -> int:
        """The number of the label of the first of a turn's words that is in the set; -1 where none is."""
        known = (self.mapping[word] for word in words if word in self.mapping)
        return next((self.labels.index(label) for label in known), -1)

    def shares(self, votes: Sequence[Sequence[str]], index: int) -> list[float] | None:
        """How the raters' votes are shared among the labels.

        Args:
            votes: the words of each rater, who has one vote; what of it goes to words outside of the set is lost.
            index: of the turn's label, which has all where no vote is left; below 0 = not scored.

        Returns:
            A share for each label, with the sum 1; None for a turn that is not scored.
        """
        if index < 0:
            return None
        shares = dict.fromkeys(self.labels, 0.0)
        for words in votes:
            for word in words:
                if word in self.mapping:
                    shares[self.mapping[word]] += 1 / len(words)
        total = sum(shares.values())
        if not total:
            return [float(number == index) for number in range(len(shares))]
        return [share / total for share in shares.values()]


def whole_turn_index(value) -> int:
    """The place of a turn in its conversation, of whatever tells it.

    Raises:
        ValueError: if it is no whole number from 0 on.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not (number >= 0 and number.is_integer()):
        raise ValueError(f"turn_index must be a whole number from 0 on, got {value!r}.")
    return int(number)


def on_scale(value, lowest: float, highest: float) -> float | None:
    """A rating of a scale from `lowest` to `highest` as a number from 0 to 1; None for what is none, as "NaN".

    A mean of raters who went beyond the scale goes beyond 0 and 1.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if number != number else (number - lowest) / (highest - lowest)


def clock_seconds(time: str) -> float:
    """Seconds of `h:mm:ss`, `mm:ss`, or these with a fraction after a point or a comma.

    Raises:
        ValueError: for another form.
    """
    found = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)", time.strip())
    if found is None:
        raise ValueError(f"a time must read h:mm:ss, got {time!r}.")
    hours, minutes, seconds = found.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def check_times(start: float | None, end: float | None) -> None:
    """Raise a ValueError unless a turn has no times, or starts at 0 s (or `EARLIEST_START`) and ends after that."""
    if start is None and end is None:
        return
    if start is None or end is None or not EARLIEST_START <= start < end < float("inf"):
        raise ValueError(f"a turn must start at 0 s or later and end after that, got {start} to {end}.")


def features_of(labels: Sequence[str]) -> Features:
    """The table's columns; `audio` as `Audio(decode=False)` stores it, since encoding through that needs a decoder."""
    return Features(
        {
            "conversation_id": Value("string"),
            "turn_index": Value("int64"),
            "speaker": Value("string"),
            "audio": {"bytes": Value("binary"), "path": Value("string")},
            "start": Value("float64"),
            "end": Value("float64"),
            "transcript": Value("string"),
            "emotion": ClassLabel(names=list(labels)),
            "split": Value("string"),
            "seconds": Value("float64"),
        }
    )


def conversation_table(rows: list[dict], labels: Sequence[str]) -> Dataset:
    """A dataset of turns, sound not decoded, held in memory.

    Args:
        rows: one dict a turn with `conversation_id`, `turn_index`, `speaker`, `audio` (a dict with `bytes` and
            `path`), `emotion` (index into `labels`, -1 for none of them), and any of `start`, `end`, `seconds`,
            `transcript`, `split` ("test").
        labels: names of the emotions.
    """
    defaults = dict.fromkeys(COLUMNS) | {"split": "test"}
    table = Dataset.from_list([defaults | row for row in rows], features=features_of(labels))
    return table.cast_column("audio", Audio(decode=False))


def rows_by_conversation(table: Dataset) -> dict[str, list[int]]:
    """The rows of the turns of each conversation, in the order of the table."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table["conversation_id"]):
        rows.setdefault(name, []).append(row)
    return rows


def speaker_numbers(rows: Sequence[int], speakers: Sequence[str]) -> list[int]:
    """For each row of one conversation the number of who talks, counted from 0 in the order of their first turn.

    Args:
        rows: of its turns.
        speakers: of all rows of the table.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(speakers[row] for row in rows))}
    return [numbers[speakers[row]] for row in rows]


def turns_by_conversation(turns: Iterable[dict]) -> Iterator[tuple[str, list[dict]]]:
    """The id and the turns of each conversation of a table that is sorted by conversation."""
    for name, rows in groupby(turns, key=lambda turn: turn["conversation_id"]):
        yield name, list(rows)
