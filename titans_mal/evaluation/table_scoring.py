"""Score whole conversations of a table, many turns at once: from audio to logits or text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from datasets import Dataset

from ..data.audio import AudioDecodingError
from ..data.table import rows_by_conversation
from ..modeling.configuration_titans_mal import read_labels
from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.turn_scoring import TurnScorer


@dataclass(frozen=True)
class GroupTurn:
    """A turn of a group.

    Attributes:
        row: row number in the table.
        conversation: number within its group, which is also its row in the cache.
        speaker: name in the table.
    """

    row: int
    conversation: int
    speaker: str


@dataclass(frozen=True)
class Conversation:
    """A conversation of a group.

    Attributes:
        turns: all of its turns, in order.
        partner: the turns of another conversation with no common speaker and at most one turn less, of the same table
            or, if it has none, of the other one; empty if there is none.
    """

    name: str
    turns: list[GroupTurn]
    partner: list[GroupTurn]


@dataclass
class Group:
    """Conversations that are scored together: the unit of work for processes and for resuming."""

    number: int
    conversations: list[Conversation]

    @property
    def turns(self) -> list[GroupTurn]:
        return [turn for conversation in self.conversations for turn in conversation.turns]

    def fresh_cache(self, model) -> ConversationMemoryCache:
        return ConversationMemoryCache(model.config, batch_size=len(self.conversations))


@dataclass
class TableScores:
    """The output of a model for turns, by their row in the table.

    Attributes:
        logits: one per label of the data; empty if text is generated.
        texts: generated answers; empty if logits are used.
        surprise: mean over the memory layers; empty without memory.
        values: one per dimension in the model's `emotion_dimensions`; empty without any.
    """

    logits: dict[int, list[float]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    surprise: dict[int, float] = field(default_factory=dict)
    values: dict[int, list[float]] = field(default_factory=dict)

    def add(self, other: TableScores) -> None:
        """Add the scores of other turns."""
        self.logits |= other.logits
        self.texts |= other.texts
        self.surprise |= other.surprise
        self.values |= other.values


def make_groups(table: Dataset, batch_size: int, others: Dataset | None = None) -> list[Group]:
    """Group the conversations of a table in order, until a group has `batch_size` turns; independent of the number of
    processes.

    Args:
        others: a further table, such as the training split, whose conversations are only partners. Its rows are
            numbered on from those of `table`.
    """
    rows, speakers = rows_by_conversation(table), table["speaker"][:]
    of_others = []
    if others is not None:
        speakers = [*speakers, *others["speaker"]]
        of_others = [[len(table) + row for row in found] for found in rows_by_conversation(others).values()]
    partners = _partners(rows, of_others, speakers)
    groups: list[Group] = []
    size = batch_size
    for name in rows:
        if size >= batch_size:
            groups.append(Group(len(groups), []))
            size = 0
        number = len(groups[-1].conversations)
        turns, partner = (_turns(found, number, speakers) for found in (rows[name], partners[name]))
        groups[-1].conversations.append(Conversation(name, turns, partner))
        size += len(turns)
    return groups


def _partners(
    conversations: dict[str, list[int]], others: Sequence[list[int]], speakers: Sequence[str]
) -> dict[str, list[int]]:
    """The rows of each conversation's partner; empty if there is none.

    It is the next conversation (cyclically) that is long enough and has no common speaker, else the next such one of
    `others`.

    Args:
        conversations: the rows of each.
        others: the rows of each further conversation.
        speakers: the speaker of each row.
    """
    here = [(rows, {speakers[row] for row in rows}) for rows in conversations.values()]
    there = [(rows, {speakers[row] for row in rows}) for rows in others]
    partners = {}
    for position, (name, (own, talking)) in enumerate(zip(conversations, here)):
        start = position % len(there) if there else 0
        candidates = chain(here[position + 1 :], here[:position], there[start:], there[:start])
        fitting = (rows for rows, they in candidates if len(rows) >= len(own) - 1 and talking.isdisjoint(they))
        partners[name] = next(fitting, [])
    return partners


def _turns(rows: Sequence[int], conversation: int, speakers: Sequence[str]) -> list[GroupTurn]:
    return [GroupTurn(row, conversation, speakers[row]) for row in rows]


class TableScorer:
    """Scores turns of a table in batches.

    Args:
        model: a model with memory.
        processor: the processor of its host.
        table: a table with the columns `audio` and `emotion`, whose labels the model knows.
        others: the further table of `make_groups`.
        batch_size: turns scored at once.
        readout: "logits", by the model's configured readout, or "text", generated.
        max_new_tokens: maximal number of generated tokens per turn.
        seed: random seed.

    Attributes:
        not_scored: the reason, for each row whose audio is unusable.
        seconds: length of the audio of each row of the group.
        processed_seconds: length that the host processed, for each scored row.
    """

    def __init__(
        self, model, processor, table, *, batch_size, readout, max_new_tokens, seed, others: Dataset | None = None
    ):
        self.model = model
        self.processor = processor
        self.seed = seed
        self.not_scored: dict[int, str] = {}
        self.seconds: dict[int, float] = {}
        self.processed_seconds: dict[int, float] = {}
        self._scorer = TurnScorer(model, processor)
        tables = [table] if others is None else [table, others]
        self._audio = table.select_columns(["audio"])
        self._audio_of_others = None if others is None else others.select_columns(["audio"])
        self._transcripts = [
            text
            for one in tables
            for text in (one["transcript"] if "transcript" in one.column_names else [None] * len(one))
        ]
        known = read_labels(model.config)
        self._label_columns = [known.index(label) for label in table.features["emotion"].names] if known else []
        self._batch_size = batch_size
        self._readout = readout
        self._max_new_tokens = max_new_tokens
        self._waveforms: dict[int, np.ndarray] = {}

    def load(self, group: Group) -> None:
        """Decode the audio of a group, and forget that of the previous group."""
        partners = (turn for conversation in group.conversations for turn in conversation.partner)
        rows = sorted({turn.row for turn in (*group.turns, *partners)})
        with ThreadPoolExecutor(4) as threads:
            loaded = dict(zip(rows, threads.map(self._waveform, rows)))
        self.not_scored |= {row: str(audio) for row, audio in loaded.items() if isinstance(audio, ValueError)}
        self._waveforms = {row: audio for row, audio in loaded.items() if not isinstance(audio, ValueError)}
        rate = self._scorer.sampling_rate
        self.seconds = {row: len(waveform) / rate for row, waveform in self._waveforms.items()}
        self.processed_seconds = {}

    def score(self, turns, cache: ConversationMemoryCache | None, *, update_memory: bool = True) -> TableScores:
        """Score turns in order; turns of a conversation are history for its later turns.

        Args:
            cache: holds each conversation in the row of its number; None: turns have no history.
            update_memory: False reads `cache` without changing it.
        """
        scores = TableScores()
        for batch, given, seconds in self._batches(turns, cache, update_memory=update_memory):
            rows = [turn.row for turn in batch]
            self.processed_seconds |= zip(rows, seconds)
            if self._readout == "text":
                scores.texts |= dict(zip(rows, self._generate(given)))
                continue
            scored = self._scorer.scored(self.model(**given, logits_to_keep=1), seconds)
            scores.logits |= {
                row: turn.logits.double()[self._label_columns].tolist()
                for row, turn in zip(rows, scored)
                if turn.logits is not None
            }
            scores.values |= {row: list(turn.values.values()) for row, turn in zip(rows, scored) if turn.values}
            numbers = [(row, n) for row in rows for n in (*scores.logits.get(row, ()), *scores.values.get(row, ()))]
            broken = sorted({row for row, number in numbers if not math.isfinite(number)})
            if broken:
                raise ValueError(f"The model's logits are not finite for rows {broken} of the dataset.")
            scores.surprise |= {row: turn.surprise for row, turn in zip(rows, scored) if turn.surprise is not None}
        return scores

    def write(self, turns, cache: ConversationMemoryCache) -> None:
        """Process turns only to write them into `cache`."""
        for _, given, _ in self._batches(turns, cache):
            self.model(**given, logits_to_keep=1)

    def usable(self, turns: Sequence[GroupTurn]) -> list[GroupTurn]:
        """The turns with usable audio."""
        return [turn for turn in turns if turn.row in self._waveforms]

    def name_of(self, row: int) -> str:
        """A row as error messages name it."""
        first = len(self._audio)
        return f"Row {row} of the dataset" if row < first else f"Row {row - first} of the training split"

    def _batches(self, turns, cache, *, update_memory: bool = True) -> Iterator[tuple[list[GroupTurn], dict, list]]:
        usable = self.usable(turns)
        for start in range(0, len(usable), self._batch_size):
            batch = usable[start : start + self._batch_size]
            inputs, seconds = self._scorer.inputs(
                [self._waveforms[turn.row] for turn in batch], [self._transcripts[turn.row] for turn in batch]
            )
            memory = self._scorer.memory_inputs(
                [turn.speaker for turn in batch],
                cache,
                conversation_ids=None if cache is None else [turn.conversation for turn in batch],
                update_memory=update_memory,
            )
            yield batch, {**inputs, **memory}, seconds

    def _generate(self, given: dict) -> list[str]:
        tokens = self.model.generate(**given, max_new_tokens=self._max_new_tokens, do_sample=False)
        answers = tokens[:, given["input_ids"].shape[1] :]
        return self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def _waveform(self, row: int) -> np.ndarray | ValueError:
        """The audio of a row, or the error if it is unusable."""
        try:
            place = row - len(self._audio)
            turn = self._audio_of_others[place] if self._audio_of_others and place >= 0 else self._audio[row]
            return self._scorer.load(turn["audio"])
        except OSError as error:
            return AudioDecodingError(str(error))
        except ValueError as error:
            return error
