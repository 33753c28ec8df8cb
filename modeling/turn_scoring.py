"""Score turns from waveforms, speakers and memory: shared by the pipeline, live calls, evaluation and endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature

from .audio_loading import MAX_TURN_SECONDS, check_waveform, load_audio, name_of_source
from .conversation_memory_cache import ConversationMemoryCache
from .host_types import AudioHost
from .turn_rules import check_named, check_speakers, speaker_number


# Key of the speakers' names in the notes of a conversation's cache, which itself knows speakers by number.
_SPEAKERS = "speakers"


@dataclass(frozen=True, eq=False)
class ScoredTurn:
    """The output of a model for a turn.

    Attributes:
        logits: (labels,) on the CPU, as `emotion_logits`; None if the model predicts no labels.
        labels: of the model; empty if it predicts none.
        surprise: mean over the memory layers; None without memory.
        processed_seconds: of the turn; less than its length if it is longer than the host's window.
        temperature: divides the logits for `scores`.
        values: predictions for the model's `emotion_dimensions`.
    """

    logits: Tensor | None
    labels: tuple[str, ...]
    surprise: float | None
    processed_seconds: float
    temperature: float = 1.0
    values: dict[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """The probability of every label."""
        if self.logits is None:
            return {}
        # Below the largest and in float64, in which no temperature overflows.
        below = self.logits.double() - self.logits.max()
        return dict(zip(self.labels, torch.softmax((below / self.temperature).float(), dim=-1).tolist()))


class TurnScorer:
    """Scores turns with a model and the processor of its host.

        scorer = TurnScorer(model, processor)
        (turn,) = scorer.score([scorer.load("turn.wav")], ["A"], [cache])
        turn.scores, turn.surprise

    A turn is padded and cut as in `prepare_turn`; its speaker is used, and required, if the memory is kept per
    speaker.

    Args:
        model: a model with memory.
        processor: the processor of its host.

    Attributes:
        sampling_rate: sampling rate of the waveforms, in Hz.
    """

    def __init__(self, model: AudioHost, processor):
        self.model, self.processor = model, processor
        self.sampling_rate: int = model.audio_extractor(processor).sampling_rate

    def load(self, audio, sampling_rate: int | None = None, *, max_seconds: float = MAX_TURN_SECONDS) -> np.ndarray:
        """The waveform of a turn, (samples,) float32 at the scorer's rate.

        Args:
            audio: a source for `load_audio`, or an array (samples,) with its rate.
            sampling_rate: sampling rate of an array, in Hz.
            max_seconds: maximal length of a turn, measured while decoding and not taken from a header.

        Raises:
            FileNotFoundError, ValueError: for audio that cannot be decoded, or is empty, silent, not finite or too
                long.
        """
        source = audio if sampling_rate is None else (audio, sampling_rate)
        waveform = load_audio(source, self.sampling_rate, max_seconds=max_seconds)
        return check_waveform(waveform, self.sampling_rate, min_seconds=0, name=name_of_source(audio))

    def inputs(
        self, waveforms: Sequence[np.ndarray], transcripts: Sequence[str | None] | None = None
    ) -> tuple[BatchFeature, list[float]]:
        """The model inputs of several turns, (turns, ...), and the number of seconds of each that they include.

        Args:
            waveforms: (samples,) each, as `load` returns them.
            transcripts: transcript of each turn, for a prompt with `{transcript}`.
        """
        return self.model.turn_inputs(self.processor, waveforms, transcripts=transcripts)

    def memory_inputs(
        self,
        speakers: Sequence[str | None],
        cache: ConversationMemoryCache | None,
        *,
        conversation_ids: Sequence[int] | None = None,
        update_memory: bool = True,
    ) -> dict[str, Any]:
        """The keyword arguments of `forward` and `generate` for the memory.

        Args:
            speakers: name of each turn's speaker.
            cache, conversation_ids, update_memory: as for `forward`.

        Raises:
            ValueError: if the memory is kept per speaker and a speaker is missing, or there are too many.
        """
        given = {"memory_cache": cache, "conversation_ids": conversation_ids, "update_memory": update_memory}
        memory = self.model.config.memory_config
        if memory.scope == "speaker" and not self.model.is_memory_disabled:
            check_named(speakers)
            given["speaker_ids"] = [speaker_number(str(name)) for name in speakers]
        return given

    @torch.no_grad()
    def score(
        self,
        waveforms: Sequence[np.ndarray],
        speakers: Sequence[str | None],
        caches: Sequence[ConversationMemoryCache],
        transcripts: Sequence[str | None] | None = None,
    ) -> list[ScoredTurn]:
        """Score one turn of each of several conversations in one batch, and write it into the memory.

        Args:
            waveforms: (samples,) each, as `load` returns them.
            speakers: the speaker of each.
            caches: caches of one conversation each, all of them different.
            transcripts: transcript of each turn, for a prompt with `{transcript}`.

        Raises:
            ValueError: for unusable turns; the caches are then unchanged.
        """
        is_by_speaker = self.model.config.memory_config.scope == "speaker" and not self.model.is_memory_disabled
        names = [[*known_speakers(cache), name] for cache, name in zip(caches, speakers)]
        if is_by_speaker:
            check_named(speakers)
            for of_conversation in names:
                check_speakers(map(str, of_conversation), self.model.config.memory_config.max_speakers)
        cache = caches[0] if len(caches) == 1 else ConversationMemoryCache.stack(list(caches))
        inputs, seconds = self.inputs(waveforms, transcripts)
        output = self.model(**inputs, **self.memory_inputs(speakers, cache), logits_to_keep=1)
        turns = self.scored(output, seconds)
        if len(caches) > 1:
            for one, part in zip(caches, cache.split()):
                part.notes = one.notes
                one.adopt(part)
        if is_by_speaker:
            for one, of_conversation in zip(caches, names):
                one.notes[_SPEAKERS] = list(dict.fromkeys(of_conversation))
        return turns

    def scored(self, output, processed_seconds: Sequence[float]) -> list[ScoredTurn]:
        """The scored turns in the output of `forward`, one per row."""
        config, surprise = self.model.config, output.memory_surprise
        rows, dimensions = len(processed_seconds), config.emotion_dimensions
        logits = [None] * rows if output.emotion_logits is None else output.emotion_logits.cpu()
        labels = () if output.emotion_logits is None else tuple(config.labels)
        surprises = [None] * rows if surprise is None else surprise.float().mean(-1).tolist()
        values = [()] * rows if output.emotion_values is None else output.emotion_values.tolist()
        return [
            ScoredTurn(logit, labels, mean, seconds, config.emotion_temperature, dict(zip(dimensions, numbers)))
            for logit, mean, seconds, numbers in zip(logits, surprises, processed_seconds, values)
        ]


def known_speakers(cache: ConversationMemoryCache) -> list[str]:
    """The names of the speakers whose turns a cache of one conversation holds, as far as known."""
    noted, turns = cache.notes.get(_SPEAKERS), cache.notes.get("turns")
    if isinstance(noted, list):
        return list(noted)
    # States of earlier versions have the names only in the history of a live conversation.
    return [turn["speaker"] for turn in turns if turn.get("speaker")] if isinstance(turns, list) else []
