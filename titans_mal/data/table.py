"""The table of conversations that all parts use: one row per turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value

from ..modeling.turn_rules import EARLIEST_START, check_text
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
# Column of tables with raters' votes: the share of each label, None for a turn that is not scored.
SOFT_LABELS = "emotion_probabilities"
# Columns of tables in which any turn has them: continuous ratings, and groups for which results are reported.
DIMENSIONS, GROUPS = ("valence", "arousal", "dominance"), ("gender", "language")
# How corpora write the gender here.
FEMALE, MALE = "female", "male"
# Columns required for evaluation.
REQUIRED_COLUMNS = ("conversation_id", "turn_index", "speaker", "audio", "emotion")


@dataclass
class Turn:
    """A turn as returned by a reader, before its audio is inspected.

    Attributes:
        conversation_id: the corpus' own name of the conversation.
        speaker: None if unknown.
        audio: path of the audio.
        words: the corpus' own words for the emotion, of which a label set knows one; empty if it has none.
        votes: the words of each rater, if individual votes are known.
        start, end: seconds, on the conversation's time axis; None if unknown.
        transcript: None if unknown.
        group: the corpus' own split, or the unit (a session, some actors) that folds are made of.
        order: sort key of the turns of a conversation.
        turn_index: position in the conversation; None: by sort order.
        more: known `DIMENSIONS` (numbers) and `GROUPS` (words).

    Raises:
        ValueError: for a conversation or speaker name that is too long, or not text.
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
    more: Mapping[str, float | str | None] = field(default_factory=dict)

    def __post_init__(self):
        check_text(self.conversation_id, "A conversation")
        if self.speaker is not None:
            check_text(self.speaker, "A speaker")


class Conversations(DatasetDict):
    """A `datasets.DatasetDict` of turns, one dataset per split, with the problems found while reading.

    Attributes:
        problems: a `Problem` for each turn that is missing, broken, cut or padded, and each file without a turn.
    """

    def __init__(self, splits, problems: Iterable[Problem] = ()):
        super().__init__(splits)
        self.problems = list(problems)

    def problems_of(self, split: str) -> list[Problem]:
        """The problems of a split, and those that belong to none."""
        return [problem for problem in self.problems if problem.split in (None, split)]


@dataclass(frozen=True)
class LabelSet:
    """Mapping from a corpus' words to emotion labels; turns with other words are processed but not scored.

    Attributes:
        name: name of the set, used in reports.
        mapping: from the corpus' word to the label; labels are numbered in order of first occurrence.
    """

    name: str
    mapping: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(self.mapping.values()))

    def index(self, words: Sequence[str]) -> int:
        """The number of the label of the first word that is in the set; -1 if none is."""
        known = (self.mapping[word] for word in words if word in self.mapping)
        return next((self.labels.index(label) for label in known), -1)

    def shares(self, votes: Sequence[Sequence[str]], index: int) -> list[float] | None:
        """Distribution of the raters' votes over the labels.

        Args:
            votes: the words of each rater, who has one vote; parts of it for words outside the set are dropped.
            index: of the turn's label, which gets probability 1 if no vote is left; below 0 = not scored.

        Returns:
            A share for each label, summing to 1; None for a turn that is not scored.
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
    """Parse the position of a turn in its conversation.

    Raises:
        ValueError: unless it is an integer from 0 that a table can hold.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not (0 <= number < 2**63 and number.is_integer()):
        raise ValueError(f"turn_index must be an integer from 0 and below 2^63, got {value!r:.100}.")
    return int(number)


def on_scale(value, lowest: float, highest: float) -> float | None:
    """Map a rating on a scale from `lowest` to `highest` to 0..1; None for anything else, such as "NaN".

    Means of ratings outside the scale can be below 0 or above 1.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if number != number else (number - lowest) / (highest - lowest)


def clock_seconds(time: str) -> float:
    """Seconds in `h:mm:ss` or `mm:ss`, optionally with a fraction after a point or comma.

    Raises:
        ValueError: for another form.
    """
    found = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)", time.strip())
    if found is None:
        raise ValueError(f"a time must have the form h:mm:ss, got {time!r:.100}.")
    hours, minutes, seconds = found.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def check_span(start: float | None, end: float | None) -> None:
    """Raise ValueError unless both times are None, or the start is at least `EARLIEST_START` and before the end."""
    if start is None and end is None:
        return
    if start is None or end is None or not EARLIEST_START <= start < end < float("inf"):
        raise ValueError(f"a turn must start at 0 s or later and end after that, got {start} to {end}.")


def features_of(labels: Sequence[str]) -> Features:
    """The table's columns; `audio` as `Audio(decode=False)` stores it, since encoding by `Audio` needs a decoder."""
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
    """A dataset of turns, held in memory, with encoded audio.

    Args:
        rows: one dict per turn with `conversation_id`, `turn_index`, `speaker`, `audio` (a dict with `bytes` and
            `path`), `emotion` (index into `labels`, -1 for none of them), and any of `start`, `end`, `seconds`,
            `transcript`, `split` (default "test").
        labels: names of the emotions.
    """
    defaults = dict.fromkeys(COLUMNS) | {"split": "test"}
    table = Dataset.from_list([defaults | row for row in rows], features=features_of(labels))
    return table.cast_column("audio", Audio(decode=False))


def rows_by_conversation(table: Dataset) -> dict[str, list[int]]:
    """The row numbers of each conversation's turns, in the order of the table."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table["conversation_id"]):
        rows.setdefault(name, []).append(row)
    return rows


def speaker_numbers(rows: Sequence[int], speakers: Sequence[str]) -> list[int]:
    """For each row of one conversation, the number of its speaker, counted from 0 in order of appearance.

    Args:
        rows: row numbers of the conversation's turns.
        speakers: speakers of all rows of the table.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(speakers[row] for row in rows))}
    return [numbers[speakers[row]] for row in rows]
