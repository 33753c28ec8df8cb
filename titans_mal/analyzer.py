"""One live conversation, turn by turn: `ConversationAnalyzer`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .data.audio import load_audio
from .export import check_labels, choose_label
from .modeling.conversation_memory_cache import ConversationMemoryCache
from .modeling.pipeline_audio_emotion import AudioEmotionPipeline


_HISTORY_FILE = "history.json"
_RATE = 16_000  # in Hz, in which turns are measured and handed on


@dataclass(frozen=True)
class TurnEmotion:
    """What was heard in a turn.

    Attributes:
        turn_index: from 0 on.
        speaker: as it was given.
        start, end: seconds of the conversation.
        label: the most probable one; "unknown" where that is less probable than `unknown_below`.
        score: the probability of the most probable label.
        scores: of every label; they add up to 1.
        surprise: of the memory, mean over its layers.
        latency: seconds from the call to the answer.
    """

    turn_index: int
    speaker: str | None
    start: float
    end: float
    label: str
    score: float
    scores: dict[str, float]
    surprise: float
    latency: float


class ConversationAnalyzer:
    """Hears one conversation as it goes on.

        analyzer = ConversationAnalyzer(model, processor)
        analyzer.push("turn0.wav", speaker="A").label

    Analyzers of several conversations may share a model, each in a thread of its own; pushes to one analyzer wait for
    each other.

    Args:
        model: with memory; it is put into evaluation mode.
        processor: of its host.
        labels: of the model, to choose among; None = all.
        unknown_below: a turn whose most probable label is less probable is "unknown".

    Raises:
        ValueError: for labels that the model does not know, or an `unknown_below` outside of [0, 1].
    """

    def __init__(self, model, processor, *, labels: Sequence[str] | None = None, unknown_below: float = 0.0):
        self._labels = check_labels(model.config.labels, labels, unknown_below)
        self._unknown_below = unknown_below
        self._pipeline = AudioEmotionPipeline(model=model, processor=processor)
        self._lock = threading.Lock()
        self._cache = ConversationMemoryCache(model.config)
        self._history: list[TurnEmotion] = []

    @property
    def history(self) -> list[TurnEmotion]:
        """The turns so far."""
        with self._lock:
            return list(self._history)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory's state, which do not grow with the conversation."""
        with self._lock:
            return self._cache.nbytes

    def push(
        self,
        audio,
        sampling_rate: int | None = None,
        *,
        speaker: str | None = None,
        start: float | None = None,
    ) -> TurnEmotion:
        """Hear one more turn.

        Args:
            audio: what `load_audio` takes, or an array (samples,) with its rate.
            sampling_rate: of an array, in Hz; turns may have different ones.
            speaker: who talks; needed where the memory is by speaker.
            start: seconds of the conversation; None: as the turn before ends. Turns may overlap, and must come in the
                order of their start.

        Raises:
            ValueError: for sound that cannot be used, or a turn that starts before the one before it; the
                conversation is then as it was.
        """
        began = time.perf_counter()
        waveform = load_audio(audio if sampling_rate is None else (audio, sampling_rate))
        with self._lock:
            turn_index, start = len(self._history), self._check_start(start)
            sound = {"audio": (waveform, _RATE), "turn_index": turn_index, "speaker": speaker}
            heard = self._pipeline(sound, memory_cache=self._cache)
            label, score, scores = choose_label(
                heard["scores"], labels=self._labels, unknown_below=self._unknown_below
            )
            turn = TurnEmotion(
                turn_index=turn_index,
                speaker=speaker,
                start=start,
                end=start + len(waveform) / _RATE,
                label=label,
                score=score,
                scores=scores,
                surprise=heard["surprise"],
                latency=time.perf_counter() - began,
            )
            self._history.append(turn)
        return turn

    def reset(self) -> None:
        """Forget the conversation."""
        with self._lock:
            self._cache.reset()
            self._history.clear()

    def save(self, folder: str | Path) -> None:
        """Write state and history, for `load` in another process to go on from.

        Raises:
            OSError: if it cannot be written, as on a full disk; the analyzer is as it was.
        """
        folder = Path(folder)
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            self._cache.save_pretrained(folder)
            unfinished = folder / f"{_HISTORY_FILE}.unfinished"
            unfinished.write_text(json.dumps([asdict(turn) for turn in self._history], indent=2), encoding="ascii")
            os.replace(unfinished, folder / _HISTORY_FILE)

    def load(self, folder: str | Path) -> None:
        """Go on from what `save` wrote, in place of the present conversation.

        Raises:
            FileNotFoundError: if there is nothing in the folder.
            ValueError: if it cannot be read, belongs to another model, or its parts to different moments; the analyzer
                is then as it was.
        """
        folder = Path(folder)
        cache = ConversationMemoryCache.from_pretrained(folder, self._pipeline.model.config)
        path = folder / _HISTORY_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {_HISTORY_FILE}.")
        try:
            history = [TurnEmotion(**turn) for turn in json.loads(path.read_text(encoding="ascii"))]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if len(history) != int(cache.turns.sum()):
            raise ValueError(f"{folder} holds {len(history)} turns and the state of {int(cache.turns.sum())}.")
        cache.to(self._pipeline.model.titans_memory.device)
        with self._lock:
            self._cache.adopt(cache)
            self._history = history

    def _check_start(self, start: float | None) -> float:
        before = self._history[-1] if self._history else None
        if start is None:
            return 0.0 if before is None else before.end
        earliest = 0.0 if before is None else before.start
        if not earliest <= start < float("inf"):
            raise ValueError(
                f"A turn must start at {earliest} s, where the one before it starts, or later, got {start}."
            )
        return float(start)
