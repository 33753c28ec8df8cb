"""Hears the turns of whole conversations, many at once: from a table's sound to logits or text."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset

from ..data.audio import AudioDecodingError, load_turn
from ..data.table import rows_by_conversation, speaker_numbers
from ..modeling.conversation_memory_cache import ConversationMemoryCache


@dataclass(frozen=True)
class HeardTurn:
    """A turn as the listener knows it.

    Attributes:
        row: in the table.
        conversation: number within its group, which is its row of the cache.
        speaker: number within its conversation.
    """

    row: int
    conversation: int
    speaker: int


@dataclass(frozen=True)
class Conversation:
    """A conversation of a group; `turns` are all of its turns, in order."""

    name: str
    turns: list[HeardTurn]


@dataclass
class Group:
    """Conversations that are heard together, the unit of work that processes share and a stopped run goes on from.

    Attributes:
        partner_turns: turns of other conversations, numbered by those that read their state.
    """

    number: int
    conversations: list[Conversation]
    partner_turns: list[HeardTurn] = field(default_factory=list)

    @property
    def turns(self) -> list[HeardTurn]:
        return [turn for conversation in self.conversations for turn in conversation.turns]

    def fresh_cache(self, model) -> ConversationMemoryCache:
        return ConversationMemoryCache(model.config, batch_size=len(self.conversations))


@dataclass
class Heard:
    """What a model made of turns, by their row in the table.

    Attributes:
        logits: one for each label of the data; empty where text is generated.
        texts: generated answers; empty where logits are read.
        surprise: mean over the memory layers; empty without memory.
    """

    logits: dict[int, list[float]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    surprise: dict[int, float] = field(default_factory=dict)


def make_groups(table: Dataset, batch_size: int) -> list[Group]:
    """All conversations of a table in its order, whole, until a group has `batch_size` turns; the same for any number
    of processes."""
    rows = rows_by_conversation(table)
    speakers = table["speaker"][:]
    groups, size = [], batch_size
    names = list(rows)
    for position, name in enumerate(names):
        if size >= batch_size:
            groups.append(Group(len(groups), []))
            size = 0
        number, partner = len(groups[-1].conversations), names[(position + 1) % len(names)]
        groups[-1].conversations.append(Conversation(name, _turns(rows[name], number, speakers)))
        groups[-1].partner_turns.extend(_turns(rows[partner], number, speakers))
        size += len(rows[name])
    return groups


def _turns(rows: Sequence[int], conversation: int, speakers: Sequence[str]) -> list[HeardTurn]:
    return [HeardTurn(row, conversation, number) for row, number in zip(rows, speaker_numbers(rows, speakers))]


class Listener:
    """A model that hears turns of a table in batches.

    Args:
        model: with memory.
        processor: of its host.
        table: with the columns `audio` and `emotion`, whose labels are all known to the model.
        batch_size: turns heard at once.
        readout: "logits", as the model's config reads them, or "text", generated.
        max_new_tokens: of generated text.
        seed: of what is random.

    Attributes:
        not_heard: why, for each row of the table whose sound cannot be used.
    """

    def __init__(self, model, processor, table, *, batch_size, readout, max_new_tokens, seed):
        self.model = model
        self.processor = processor
        self.seed = seed
        self.not_heard: dict[int, str] = {}
        self._audio = table.select_columns(["audio"])
        self._label_columns = [model.config.labels.index(label) for label in table.features["emotion"].names]
        self._batch_size = batch_size
        self._readout = readout
        self._max_new_tokens = max_new_tokens
        self._waveforms: dict[int, np.ndarray] = {}

    def load(self, group: Group) -> None:
        """Decode the sound of a group, and forget that of the one before."""
        rows = sorted({turn.row for turn in (*group.turns, *group.partner_turns)})
        with ThreadPoolExecutor(4) as threads:
            loaded = dict(zip(rows, threads.map(self._waveform, rows)))
        self.not_heard |= {row: str(sound) for row, sound in loaded.items() if isinstance(sound, ValueError)}
        self._waveforms = {row: sound for row, sound in loaded.items() if not isinstance(sound, ValueError)}

    def hear(self, turns, cache: ConversationMemoryCache | None, *, update_memory: bool = True) -> Heard:
        """Hear turns in order, those of one conversation as history of the later ones.

        Args:
            cache: carries each conversation on in the row of its number; None: every turn starts afresh.
            update_memory: False reads `cache` and leaves it.
        """
        heard = Heard()
        for batch, given in self._batches(turns, cache, update_memory=update_memory):
            rows = [turn.row for turn in batch]
            if self._readout == "text":
                heard.texts |= dict(zip(rows, self._generate(given)))
                continue
            output = self.model(**given, logits_to_keep=1)
            logits = output.emotion_logits.double().cpu()[:, self._label_columns]
            broken = [row for row, is_finite in zip(rows, logits.isfinite().all(-1)) if not is_finite]
            if broken:
                raise ValueError(f"The model's logits are not finite for the rows {broken} of the dataset.")
            heard.logits |= dict(zip(rows, logits.tolist()))
            if output.memory_surprise is not None:
                heard.surprise |= dict(zip(rows, output.memory_surprise.float().mean(-1).tolist()))
        return heard

    def write(self, turns, cache: ConversationMemoryCache) -> None:
        """Hear turns for what they leave in `cache` alone."""
        for _, given in self._batches(turns, cache):
            self.model(**given, logits_to_keep=1)

    def _batches(self, turns, cache, *, update_memory: bool = True) -> Iterator[tuple[list[HeardTurn], dict]]:
        usable = [turn for turn in turns if turn.row in self._waveforms]
        for start in range(0, len(usable), self._batch_size):
            batch = usable[start : start + self._batch_size]
            with warnings.catch_warnings():
                # Of turns that are cut to the host's window; the protocol says how long that is.
                warnings.simplefilter("ignore", UserWarning)
                rate = self.model.sound_extractor(self.processor).sampling_rate
                inputs = self.model.prepare_turn(self.processor, [(self._waveforms[t.row], rate) for t in batch])
            ids = None if cache is None else [turn.conversation for turn in batch]
            speakers = [turn.speaker for turn in batch]
            memory = {"memory_cache": cache, "conversation_ids": ids, "speaker_ids": speakers}
            yield batch, {**inputs, **memory, "update_memory": update_memory}

    def _generate(self, given: dict) -> list[str]:
        tokens = self.model.generate(**given, max_new_tokens=self._max_new_tokens, do_sample=False)
        answers = tokens[:, given["input_ids"].shape[1] :]
        return self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)

    def _waveform(self, row: int) -> np.ndarray | ValueError:
        """The sound of a row, padded with silence to what can be heard; the error of one that cannot be used."""
        rate = self.model.sound_extractor(self.processor).sampling_rate
        try:
            return load_turn(self._audio[row]["audio"], sampling_rate=rate)
        except FileNotFoundError as error:
            return AudioDecodingError(str(error))
        except ValueError as error:
            return error


def parse_label(text: str, labels: Sequence[str]) -> int:
    """The label that an answer names: the only one of them that stands in it as a word, in any case; -1 otherwise.

    "Happy." and "The speaker is happy" name "happy"; "happy or sad", "not happy", "unhappy" and "joyful" name none of
    (happy, sad).
    """
    spoken = _words(text)
    named = [
        index for index, label in enumerate(labels) if _words(label) in spoken and f" not{_words(label)}" not in spoken
    ]
    return named[0] if len(named) == 1 else -1


def _words(text: str) -> str:
    """Lower-case words between single spaces; all else parts words."""
    words = re.findall(r"[^\W_]+", text.lower())
    return f" {' '.join(words)} "
