"""From turns of a table to the inputs of a forward pass, on the CPU: audio, lanes, speakers and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from ..data.audio import load_turn
from ..data.problems import Problem
from ..data.table import SOFT_LABELS, rows_by_conversation, speaker_numbers
from ..data.virtual_speakers import VirtualSpeaker
from ..modeling.turn_scoring import TurnScorer
from .lanes import LaneTurn


# Key of a batch: raters' values, for a model with `emotion_dimensions`.
VALUES = "emotion_value_labels"
# Keys of a batch with unusable turns: their `Problem`s, and whether no usable turn was left.
PROBLEMS, IS_NOISE = "problems", "is_noise"


class TurnDataset(torch.utils.data.Dataset):
    """Turns of a table, as requested by `LaneSampler`; instead of an unusable turn, its `Problem`.

    Args:
        table: a split of `load_conversations`.
        sampling_rate: sampling rate of the host, in Hz.
        label_columns: the model's number for each label of the table.
        soft_labels: whether to include the column `emotion_probabilities`.
        dimensions: numeric columns to include; a missing column counts as unknown for all turns.
        virtual_speakers: probability that a speaker of a conversation gets another voice and channel.
        seed: random seed of the virtual speakers.

    Attributes:
        table: the table.
        conversations: the rows of each conversation, in order.
    """

    def __init__(
        self,
        table: Dataset,
        *,
        sampling_rate: int,
        label_columns: Sequence[int],
        soft_labels: bool = False,
        dimensions: Sequence[str] = (),
        virtual_speakers: float = 0.0,
        seed: int = 0,
    ):
        self.table = table.with_format(None)
        self._sampling_rate = sampling_rate
        self._label_columns = list(label_columns)
        self._soft_labels, self._dimensions = soft_labels, list(dimensions)
        self._virtual_speakers, self._seed = virtual_speakers, seed
        self.conversations = list(rows_by_conversation(table).values())
        speakers = table["speaker"][:]
        self._speakers: dict[int, int] = {}
        self._first_rows: dict[int, int] = {}
        for rows in self.conversations:
            self._speakers |= zip(rows, speaker_numbers(rows, speakers))
            self._first_rows |= dict.fromkeys(rows, rows[0])

    def __len__(self) -> int:
        return len(self.table)

    def longest_turn(self) -> LaneTurn:
        """The longest turn, if the table has lengths; else the first."""
        seconds = self.table["seconds"] if "seconds" in self.table.column_names else [0.0]
        return LaneTurn(max(range(len(seconds)), key=lambda row: seconds[row] or 0.0), lane=0, begins=True)

    def __getitem__(self, turn: LaneTurn) -> dict:
        row = self.table[turn.row]
        try:
            waveform = load_turn(row["audio"], sampling_rate=self._sampling_rate)
        except (ValueError, OSError) as error:
            place = {"split": row.get("split"), "conversation_id": row["conversation_id"]}
            file = row["audio"]["path"] or "bytes"
            problem = Problem.of_error(error, f"row {turn.row}, {file}", **place, turn_index=row["turn_index"])
            return {"lane": turn.lane, "begins": turn.begins, "problem": problem}
        if self._virtual_speakers:
            waveform = self._changed(waveform, turn)
        label = row["emotion"]
        item = {
            "waveform": waveform,
            "lane": turn.lane,
            "begins": turn.begins,
            "speaker": self._speakers[turn.row],
            "label": self._label_columns[label] if label >= 0 and self._label_columns else -1,
            "transcript": row.get("transcript"),
        }
        if self._dimensions:
            item["values"] = [math.nan if row.get(name) is None else row[name] for name in self._dimensions]
        if self._soft_labels:
            item["probabilities"] = row[SOFT_LABELS] or [0.0] * len(self._label_columns)
        return item

    def _changed(self, waveform: np.ndarray, turn: LaneTurn) -> np.ndarray:
        """The audio in the voice of a virtual speaker: the same for all turns of a speaker within a visit."""
        rng = np.random.default_rng((self._seed, self._first_rows[turn.row], self._speakers[turn.row], turn.visit))
        if rng.random() >= self._virtual_speakers:
            return waveform
        return VirtualSpeaker.draw(rng)(waveform, self._sampling_rate)


class WindowCollator:
    """Makes the inputs of a batch of turns: whole windows of one or more lanes.

    All tensors are on the CPU, since data loaders only pin CPU tensors and their workers must not use the model's
    device. The trainer moves them.

    Args:
        model, processor: they define the prompt; the model's weights are not kept.
        label_columns: as for `TurnDataset`, for soft labels.
    """

    def __init__(self, model: PreTrainedModel, processor, label_columns: Sequence[int]):
        self._model = without_weights(model)
        self._scorer = TurnScorer(self._model, processor)
        self._label_columns = list(label_columns)

    def __call__(self, turns: list[dict]) -> dict:
        """The inputs that `ConversationTrainer` passes to the model.

        Returns:
            The host's inputs (turns, ...), `conversation_ids` and `speaker_ids` (turns,), `begins` (the lanes whose
            conversation begins), `emotion_labels` (turns,), with soft labels `emotion_probabilities` (turns, labels)
            and with dimensions `emotion_value_labels` (turns, dimensions). Unusable turns are left out; `PROBLEMS`
            gives the reasons, and `IS_NOISE` tells whether none was left.
        """
        begins = [turn["lane"] for turn in turns if turn["begins"]]
        problems = [turn["problem"] for turn in turns if "problem" in turn]
        usable = [turn for turn in turns if "problem" not in turn]
        turns = usable or [self._noise_in(turns[0]["lane"])]
        # Longer turns are reported once, for the whole table.
        inputs, _ = self._scorer.inputs([t["waveform"] for t in turns], [t["transcript"] for t in turns])
        batch = {
            **inputs,
            "conversation_ids": torch.tensor([turn["lane"] for turn in turns]),
            "speaker_ids": torch.tensor([turn["speaker"] for turn in turns]),
            "begins": torch.tensor(begins, dtype=torch.long),
            "emotion_labels": torch.tensor([turn["label"] for turn in turns]),
        }
        if problems:
            batch |= {PROBLEMS: problems, IS_NOISE: not usable}
        if "values" in turns[0]:
            batch[VALUES] = torch.tensor([turn["values"] for turn in turns], dtype=torch.float32)
        if "probabilities" in turns[0]:
            given = torch.tensor([turn["probabilities"] for turn in turns], dtype=torch.float32)
            batch[SOFT_LABELS] = torch.zeros(len(turns), len(self._model.config.labels))
            batch[SOFT_LABELS][:, self._label_columns] = given
        return batch

    def _noise_in(self, lane: int) -> dict:
        """A turn of noise for a step without usable turns, in which this process must take part; it is not scored."""
        rate = self._scorer.sampling_rate
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, rate // 2).astype(np.float32)
        turn = {"waveform": noise, "lane": lane, "speaker": 0, "label": -1, "transcript": None}
        dimensions = self._model.config.emotion_dimensions
        return turn | ({"values": [math.nan] * len(dimensions)} if dimensions else {})


def without_weights(model: PreTrainedModel) -> Any:
    """Stands in for a model to prepare turns on the CPU in its dtype: it has only the class and the configuration.

    Workers of a data loader get it instead of the model, whose weights they would copy and whose device they cannot
    use.
    """
    stand_in = type(model).__new__(type(model))
    nn.Module.__init__(stand_in)
    stand_in.config = model.config
    # transformers takes the device from the parameters.
    stand_in.like = nn.Parameter(torch.empty(0, dtype=model.dtype))
    return stand_in
