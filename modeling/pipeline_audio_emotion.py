"""The `"audio-emotion"` pipeline: from turns of a conversation to one dictionary per turn."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForMultimodalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .audio_loading import MAX_TURN_SECONDS
from .conversation_memory_cache import ConversationMemoryCache
from .conversation_store import ConversationStore
from .shortened import shortened
from .turn_rules import (
    MAX_NAME,
    check_flag,
    check_text,
    check_times,
    check_turn_index,
    given_text,
    is_much_longer,
    pieces_of_long_turn,
    warn_of_cut_turns,
)
from .turn_scoring import TurnScorer


TASK = "audio-emotion"

# Types of a single audio; other iterables hold several.
_ONE_AUDIO = (str, bytes, bytearray, dict, tuple, np.ndarray)

# Optional fields of a turn's dictionary, which are returned with the result.
_TURN_FIELDS = ("file", "conversation_id", "turn_index", "speaker", "start", "end")
# Further fields of a row of a conversation table; only prompts with `{transcript}` use one of them.
_OTHER_FIELDS = ("emotion", "transcript", "split", "seconds")


class AudioEmotionPipeline(Pipeline):
    """Emotions of the turns of a conversation.

        pipe = AudioEmotionPipeline(model, processor=processor)
        pipe(["turn0.wav", "turn1.wav"])                       # one conversation, in order
        pipe({"audio": "turn2.wav", "speaker": "A"}, memory_cache=cache)  # one more turn of a live one

    A turn is a source for `load_audio` (path, bytes, `(array, rate)`, a dict with `array` or `raw`, and
    `sampling_rate`), or a dict with `audio` and any of `file`, `conversation_id`, `turn_index`, `speaker`, `start`,
    `end` (seconds) and, for prompts with `{transcript}`, `transcript`. Turns without `conversation_id` belong to one
    conversation. Each conversation is processed turn by turn in the given order, which should be that of the turns'
    ends: turns may overlap. `start` and `end` do not select a part of a recording, as `path#t=START,END` does: a
    warning says if the audio is much longer. A turn shorter than the host's minimum is padded with silence; a turn
    longer than its window is cut to its beginning, with one warning for all such turns.

    Keyword arguments of a call:
        memory_cache: a `ConversationMemoryCache` of one row that is read and updated; all turns then belong to one
            conversation. None: every conversation starts from the learned memory.
        memory (bool): False scores each turn without memory. Default True.
        split_long (bool): score a turn that is longer than the host's window as several turns, cut at its pauses,
            instead of its beginning only; each has the turn's `turn_index` and its own `start` and `end`. Default
            False.
        skip_unusable (bool): leave out turns whose audio cannot be used, such as muted segments, with one warning for
            all of them, instead of ending with an error at the first. Default False.

    Returns, for each turn (in a list, unless a single turn was given, and not split):
        its fields, and `label`, `score` (probability of the label), `scores` (of all labels), `surprise` (mean over
        the memory layers; None without memory) and `processed_seconds` (of the turn).

    Raises:
        ValueError: for unusable audio, turns out of order, invalid times (see `check_times`), or a missing speaker if
            the memory is kept per speaker, naming the turn. Earlier turns have then been written to `memory_cache`;
            that turn has not. With `skip_unusable` only if no turn's audio can be used.
    """

    # Servers with untrusted clients lower it.
    max_turn_seconds = MAX_TURN_SECONDS
    model: Any  # an `AudioHost`
    processor: Any
    # transformers declares these as `None`.
    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "audio_extractor"):
            raise ValueError(
                f"{type(self).__name__} needs a model with memory, got {type(self.model).__name__}: load it with "
                "AutoModelForAudioEmotion, or add a memory with its from_base."
            )

    def _sanitize_parameters(
        self,
        memory_cache: Any = None,
        memory: Any = None,
        split_long: Any = None,
        skip_unusable: Any = None,
        **unknown: Any,
    ):
        if unknown:
            raise ValueError(
                f"{type(self).__name__} accepts memory_cache, memory, split_long and skip_unusable, got "
                f"{sorted(unknown)}."
            )
        flags = {"memory": memory, "split_long": split_long, "skip_unusable": skip_unusable}
        for name, value in flags.items():
            if value is not None:
                check_flag(value, name)
        parameters = {"memory_cache": memory_cache, **flags}
        return {}, {name: value for name, value in parameters.items() if value is not None}, {}

    def __call__(self, turns: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """See the class."""
        if self.processor is None:
            raise ValueError(f"{type(self).__name__} needs the processor of the model's host: processor=...")
        turns = _source(turns)
        if not isinstance(turns, _ONE_AUDIO) and isinstance(turns, Iterable):
            turns = list(turns)
        if not isinstance(turns, list):
            results = self([turns], **kwargs)
            return results[0] if len(results) == 1 else results
        turns = self._checked([self._as_turn(turn) for turn in turns])
        _, parameters, _ = AudioEmotionPipeline._sanitize_parameters(self, **kwargs)
        parameters = {**self._forward_params, **parameters}
        cache, split_long = parameters.pop("memory_cache", None), parameters.pop("split_long", False)
        loads = self._usable if parameters.pop("skip_unusable", False) else lambda turns: map(self.preprocess, turns)
        if cache is not None and not hasattr(cache, "adopt"):  # that of the package may go with remote code
            raise ValueError(f"memory_cache must be a ConversationMemoryCache, got {type(cache).__name__}.")
        if cache is not None and len({turn.get("conversation_id") for turn in turns}) > 1:
            raise ValueError("With a memory_cache all turns must belong to one conversation.")
        caches: dict[Any, ConversationMemoryCache] = {}
        results, cut, longer = [], [], []
        for loaded in loads(turns):
            turn, name = loaded["turn"], loaded["turn"].get("conversation_id")
            if name not in caches:
                caches[name] = self.model.memory_cache_class(self.model.config) if cache is None else cache
            if _is_longer(loaded):
                longer.append(loaded)
            for piece in self._pieces(loaded) if split_long else [loaded]:
                scored = self.forward(piece, **{**parameters, "memory_cache": caches[name]})
                results.append(self.postprocess(scored))
                if scored["scored"].processed_seconds < piece["seconds"]:
                    cut.append((turn["file"] or _name(turn), piece["seconds"]))
        warn_of_cut_turns(cut, self.model.max_turn_seconds(self.processor))
        if longer:
            turn = longer[0]["turn"]
            warnings.warn(
                f"The audio of {len(longer)} turns is much longer than their times, the first {_name(turn)} with "
                f"{longer[0]['seconds']:.1f} s: give a part of a recording as 'PATH#t={turn['start']},{turn['end']}'.",
                stacklevel=2,
            )
        return results

    def conversation_store(self, states: str | Path | None = None, **kwargs) -> ConversationStore:
        """A store of the states of many conversations, whose caches can be passed as `memory_cache`.

        Args:
            states, kwargs: arguments of `ConversationStore`.
        """
        return ConversationStore(self.model, states, **kwargs)

    def seconds_of(self, audio) -> float:
        """How long a turn's audio is, in seconds; `audio` and errors as of a turn."""
        scorer = TurnScorer(self.model, self.processor)
        return len(scorer.load(audio, max_seconds=self.max_turn_seconds)) / scorer.sampling_rate

    def preprocess(self, turn: dict) -> dict:  # type: ignore[override]
        scorer = TurnScorer(self.model, self.processor)
        with _naming(turn):
            waveform = scorer.load(turn["audio"], max_seconds=self.max_turn_seconds)
        return {"turn": turn, "waveform": waveform, "seconds": len(waveform) / scorer.sampling_rate}

    def _usable(self, turns: list[dict]) -> Iterator[dict]:
        """The turns whose audio can be used, loaded; a warning names the others, or all are an error."""
        errors: list[Exception] = []
        for turn in turns:
            try:
                loaded = self.preprocess(turn)
            except (OSError, ValueError) as error:
                errors.append(error)
            else:
                yield loaded
        if errors and len(errors) == len(turns):
            raise errors[0]
        if errors:
            shown = shortened(errors, separator="; ")
            warnings.warn(f"{len(errors)} of {len(turns)} turns are unusable and left out: {shown}", stacklevel=3)

    def _pieces(self, loaded: dict) -> list[dict]:
        """A turn that is longer than the host's window as several; those that are silent are left out."""
        window, rate = (
            self.model.max_turn_seconds(self.processor),
            TurnScorer(self.model, self.processor).sampling_rate,
        )
        turn, waveform = loaded["turn"], loaded["waveform"]
        pieces = pieces_of_long_turn(waveform, rate, window)
        if pieces == [(0, len(waveform))]:
            return [loaded]
        offset = turn.get("start") or 0.0
        return [
            {
                "turn": {**turn, "start": offset + start / rate, "end": offset + end / rate},
                "waveform": waveform[start:end],
                "seconds": (end - start) / rate,
            }
            for start, end in pieces
        ]

    def _forward(  # type: ignore[override]
        self, model_inputs: dict, memory_cache: ConversationMemoryCache, memory: bool = True
    ) -> dict:
        turn, scorer = model_inputs["turn"], TurnScorer(self.model, self.processor)
        with _naming(turn), contextlib.nullcontext() if memory else self.model.disable_memory():
            (scored,) = scorer.score(
                [model_inputs["waveform"]],
                [turn.get("speaker")],
                [memory_cache],
                [given_text(turn.get("transcript"))],  # pandas has NaN where there is none
            )
        return {"turn": turn, "scored": scored}

    def postprocess(self, model_outputs: Any, **kwargs: Any) -> dict[str, Any]:
        turn, scored = model_outputs["turn"], model_outputs["scored"]
        scores = scored.scores
        label = max(scores, key=scores.get, default=None)
        fields = {name: turn.get(name) for name in _TURN_FIELDS}
        result = {"label": label, "score": scores.get(label), "scores": scores, "surprise": scored.surprise}
        if scored.values:
            result["values"] = scored.values
        return {**fields, **result, "processed_seconds": scored.processed_seconds}

    @staticmethod
    def _as_turn(turn) -> dict:
        if not (isinstance(turn, dict) and "audio" in turn):
            turn = {"audio": turn}
        turn = {**turn, "audio": _source(turn["audio"])}
        unknown = sorted({*turn} - {"audio", *_TURN_FIELDS, *_OTHER_FIELDS})
        if unknown:
            raise ValueError(
                f"A turn must be audio, or a dict with audio and any of {_TURN_FIELDS}; it also has {unknown!s:.200}."
            )
        source = turn["audio"]
        path = source.get("path") if isinstance(source, dict) else source
        return {"file": str(path) if isinstance(path, str) or hasattr(path, "__fspath__") else None, **turn}

    @staticmethod
    def _checked(turns: list[dict]) -> list[dict]:
        """The turns with their number, after checking their order and times."""
        last: dict[Any, Any] = {}
        checked = []
        for position, turn in enumerate(turns):
            conversation, name = turn.get("conversation_id"), f"entry {position}"
            for what in ("conversation_id", "speaker"):
                value = turn.get(what)
                if value is not None:
                    is_number = isinstance(value, int | np.integer) and abs(value) < 10**MAX_NAME
                    check_text(str(value) if is_number else value, f"{what} of {name}")
            check_turn_index(turn.get("turn_index"), last.get(conversation), name=name)
            start, end = check_times(turn.get("start"), turn.get("end"), name=f"Entry {position}")
            index = turn.get("turn_index")
            last[conversation] = last.get(conversation) if index is None else index
            times = {key: value for key, value in (("start", start), ("end", end)) if key in turn}
            checked.append({**turn, **times, "turn_index": position if index is None else index})
        return checked


class AudioTurnPipeline(AudioEmotionPipeline):
    """Single turns, each scored as its own conversation, with the interface of transformers' audio classification.

    The option `top_k` (of the pipeline, or of a call) limits the number of labels; None = all.

    This is the pipeline that `pipeline("audio-classification", repo, trust_remote_code=True)` returns.

    Returns, for each turn (in a list, if a list was given):
        a list of dicts with `label` and `score`, the most probable first.
    """

    def _sanitize_parameters(self, *, top_k: Any = None, **unknown: Any):  # type: ignore[override]
        if unknown:
            raise ValueError(f"{type(self).__name__} accepts top_k, got {sorted(unknown)}.")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be an integer of at least 1, or None, got {top_k!r}.")
        return {}, {}, {"top_k": top_k} if top_k is not None else {}

    def __call__(self, turns: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Accepts what `transformers.AudioClassificationPipeline` does: a path, bytes, (samples,) or a dict.

        Args:
            turns: arrays (samples,) are at the host's rate.
            kwargs: `top_k`, overriding that of the pipeline.
        """
        turns = _source(turns)
        if not isinstance(turns, _ONE_AUDIO) and isinstance(turns, Iterable):
            return [self(turn, **kwargs) for turn in turns]
        *_, options = self._sanitize_parameters(**kwargs)
        top_k = {**self._postprocess_params, **options}.get("top_k")
        if isinstance(turns, np.ndarray):
            turns = (turns, self.model.audio_extractor(self.processor).sampling_rate)
        # A single turn has a single speaker.
        (turn,) = super().__call__([{"audio": turns, "speaker": "speaker"}])
        ranked = sorted(turn["scores"].items(), key=lambda pair: -pair[1])
        return [{"score": score, "label": label} for label, score in ranked[:top_k]]


def custom_pipelines() -> dict[str, dict]:
    """The pipelines in a configuration, for `pipeline(task, repo, trust_remote_code=True)`."""
    module = __name__.rsplit(".")[-1]
    classes = {TASK: AudioEmotionPipeline, "audio-classification": AudioTurnPipeline}
    return {
        task: {"impl": f"{module}.{cls.__name__}", "pt": ["AutoModelForMultimodalLM"], "type": "multimodal"}
        for task, cls in classes.items()
    }


def _source(audio: Any) -> Any:
    """A source for `load_audio`; transformers' audio classification has "raw" for "array".

    Raises:
        ValueError: for an open file, a table or a dataset of several splits, saying what to give instead.
    """
    if isinstance(audio, dict) and "raw" in audio:
        unknown = sorted({*audio} - {"raw", "sampling_rate", "path"})
        if unknown:
            raise ValueError(f"Audio with 'raw' may also have sampling_rate and path, got {unknown!s:.200}.")
        return {"array": audio["raw"], "sampling_rate": audio.get("sampling_rate")}
    instead = None
    if hasattr(audio, "read") and not hasattr(audio, "__fspath__"):
        instead = "its path, or its bytes"
    elif isinstance(audio, dict) and audio and all(hasattr(part, "column_names") for part in audio.values()):
        instead = f"one of its splits {[*audio]}"
    elif hasattr(audio, "iloc") and hasattr(audio, "columns"):  # a DataFrame
        instead = 'its rows, as to_dict("records") returns them'
    if instead is not None:
        raise ValueError(f"{type(audio).__name__} is not audio or a list of turns: give {instead}.")
    return audio


def _name(turn: dict) -> str:
    """The name of a turn in error messages."""
    names = [f"{name} {turn[name]!r}" for name in ("conversation_id", "file") if turn.get(name) is not None]
    return f"Turn {turn['turn_index']}" + (f" ({', '.join(names)})" if names else "")


def _is_longer(loaded: dict) -> bool:
    """Whether a turn's audio is much longer than its times."""
    start, end = (loaded["turn"].get(name) for name in ("start", "end"))
    return start is not None and end is not None and is_much_longer(loaded["seconds"], start, end)


@contextlib.contextmanager
def _naming(turn: dict) -> Iterator[None]:
    """Prefix errors with the name of the turn."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{_name(turn)}: {error}") from error


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=AudioEmotionPipeline, pt_model=AutoModelForMultimodalLM, type="multimodal"
)
