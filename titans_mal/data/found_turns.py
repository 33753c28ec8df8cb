"""The turns that a reader found in a corpus, and the tables that are built from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from datasets import Audio, Dataset, List, Value, concatenate_datasets

from .audio import AudioDecodingError, part_of_file, pieces_of_turn
from .problems import LEFT_OUT, Problem, UnusableTurns, look_at_all, quietly, report_problems
from .splits import draw_splits
from .table import DIMENSIONS, GROUPS, SOFT_LABELS, Conversations, LabelSet, Turn, features_of


@dataclass
class FoundTurns:
    """The turns that a reader found; `inspect` looks at their audio, and `tables` then builds the tables.

    Attributes:
        name: name of the corpus, folder or dataset.
        turns: all turns; `draw_splits` sorts them by split.
        labels: the label set of the tables.
        fold: the fold that the splits are of; None without one.
        problems: what the reader could not use; `tables` appends to it.
        audio: of a Hub dataset, for each split the column `audio`, one row per turn of the split in order.
        findings: the result of inspecting each turn's audio; empty before `inspect`.
        split_longer_than: seconds; longer files become several turns. None: no file is split.
        has_votes: whether raters' votes are known for any turn.
        more: the `DIMENSIONS` and `GROUPS` that are known for any turn.
    """

    name: str
    turns: list[Turn]
    labels: LabelSet
    fold: int | None = None
    problems: list[Problem] = field(default_factory=list)
    audio: dict[str, Dataset] | None = None
    findings: list[dict] = field(default_factory=list)
    split_longer_than: float | None = None
    has_votes: bool = field(init=False)
    more: list[str] = field(init=False)

    def __post_init__(self):
        self.has_votes = any(turn.votes for turn in self.turns)
        given = {name for turn in self.turns for name, value in turn.more.items() if value is not None}
        self.more = [name for name in (*DIMENSIONS, *GROUPS) if name in given]

    def draw_splits(self, **how) -> None:
        """Assign each turn to a split, and divide the audio accordingly."""
        draw_splits(self.turns, **how)
        if self.audio is not None:
            (audio,) = self.audio.values()
            groups = [turn.group for turn in self.turns]
            splits = list(dict.fromkeys(groups))
            self.audio = {
                split: audio.select([row for row, group in enumerate(groups) if group == split]) for split in splits
            }
            self.turns.sort(key=lambda turn: splits.index(turn.group))

    def inspect(self, **how) -> FoundTurns:
        """Inspect the audio of every turn."""
        if not self.turns:
            self.findings = []
        elif self.audio is None:
            self.findings = look_at_all([turn.audio for turn in self.turns], **how)
        else:
            self.findings = [found for table in self.audio.values() for found in look_at_all(table, **how)]
        return self

    def tables(self, *, strict: bool) -> Conversations:
        """The usable turns, by split."""
        kept: dict[str, list[tuple[dict, int]]] = {turn.group: [] for turn in self.turns}
        numbers: dict[tuple[str, str], int] = defaultdict(int)
        added: dict[tuple[str, str], int] = defaultdict(int)  # turns by those that were split
        order = sorted(range(len(self.turns)), key=lambda i: (self.turns[i].conversation_id, self.turns[i].order))
        positions = _positions_in_split(self.turns)
        for i in order:
            turn, found = self.turns[i], self.findings[i]
            place = (turn.group, turn.conversation_id)
            turn_index = (numbers[place] if turn.turn_index is None else turn.turn_index) + added[place]
            numbers[place] += 1
            pieces = self._pieces(turn, found)
            if found["kind"] is not None:
                file = turn.audio or f"{self.name}, row {positions[i]}"
                self.problems.append(Problem(found["kind"], file, found["detail"], *place, turn_index))
            if turn.start is not None and turn.start < 0:
                self.problems.append(
                    Problem("early", turn.audio or self.name, f"{turn.start:g} s", *place, turn_index)
                )
            if found["kind"] not in LEFT_OUT:
                rows = [self._row(turn, found, turn_index + number) for number, found in enumerate(pieces)]
                kept[turn.group] += [(row, positions[i]) for row in rows]
                added[place] += len(rows) - 1
        report_problems(self.problems, name=self.name, strict=strict)
        empty = [split for split, rows in kept.items() if not rows]
        if empty or not kept:
            what = f"the split {empty[0]!r} has no usable turn" if empty else "there is no usable turn"
            of_split = [problem for problem in self.problems if not empty or problem.split == empty[0]]
            first = f"; the first problem is {of_split[0]}" if of_split else ""
            raise UnusableTurns(f"{self.name}: {what}{first}", self.problems)
        return Conversations({split: self._table(split, rows) for split, rows in kept.items()}, self.problems)

    def _pieces(self, turn: Turn, found: dict) -> list[dict]:
        """The finding of a turn, which changes if the turn is split, and the findings of its pieces."""
        if self.split_longer_than is None or found["kind"] != "long":
            return [found]
        try:
            pieces = pieces_of_turn(turn.audio, self.split_longer_than)
        except AudioDecodingError as error:
            found |= {"kind": "broken", "detail": str(error)}
            return [found]
        whole = f"{pieces[-1][1]:.1f} s, in {len(pieces)} turns"
        found |= {"kind": "split", "detail": whole}
        return [
            found | {"path": part_of_file(turn.audio, start, end), "seconds": end - start, "start": start, "end": end}
            for start, end in pieces
        ]

    def _row(self, turn: Turn, found: dict, turn_index: int) -> dict:
        emotion = self.labels.index(turn.words)
        shares = {SOFT_LABELS: self.labels.shares(turn.votes, emotion)} if self.has_votes else {}
        more = {name: turn.more.get(name) for name in self.more}
        return (
            shares
            | more
            | {
                "conversation_id": turn.conversation_id,
                "turn_index": turn_index,
                "speaker": turn.speaker,
                "audio": {"bytes": None, "path": found["path"]},
                "start": None if turn.start is None else max(0.0, turn.start) + found.get("start", 0.0),
                "end": turn.end if turn.start is None or "end" not in found else turn.start + found["end"],
                "transcript": turn.transcript,
                "emotion": emotion,
                "split": turn.group,
                "seconds": found["seconds"],
            }
        )

    def _table(self, split: str, rows: list[tuple[dict, int]]) -> Dataset:
        features = features_of(self.labels.labels)
        if self.has_votes:
            features[SOFT_LABELS] = List(Value("float32"))
        features.update({name: Value("float32" if name in DIMENSIONS else "string") for name in self.more})
        # A single string: datasets would treat a list as shards, and hashes a string faster for its cache.
        content = json.dumps([row for row, _ in rows])
        with quietly():
            table = Dataset.from_generator(_rows, features=features, gen_kwargs={"content": content})
        table = table.cast_column("audio", Audio(decode=False))
        if self.audio is not None:
            audio = self.audio[split].select([position for _, position in rows])
            order = table.column_names
            table = concatenate_datasets([table.remove_columns("audio"), audio], axis=1).select_columns(order)
        table.info.dataset_name = self.name
        table.info.config_name = self.labels.name if self.fold is None else f"{self.labels.name}, fold {self.fold}"
        return table


def _rows(content: str) -> Iterator[dict]:
    yield from json.loads(content)


def _positions_in_split(turns: list[Turn]) -> list[int]:
    """The position of each turn within its split."""
    counts: dict[str, int] = defaultdict(int)
    positions = []
    for turn in turns:
        positions.append(counts[turn.group])
        counts[turn.group] += 1
    return positions
