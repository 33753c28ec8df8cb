"""The `"audio-emotion"` pipeline: turns of a conversation in, one dictionary a turn out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMultimodalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .conversation_memory_cache import ConversationMemoryCache
from .conversation_store import ConversationStore


TASK = "audio-emotion"

# Other iterables hold several.
_ONE_SOUND = (str, bytes, bytearray, dict, tuple, np.ndarray)

# What a turn's dictionary may hold beside its sound; given back with the result.
_TURN_FIELDS = ("file", "conversation_id", "turn_index", "speaker", "start", "end")
# What a row of a table of conversations has besides; the model must not hear of it.
_PASSED_OVER = ("emotion", "transcript", "split", "seconds")


class AudioEmotionPipeline(Pipeline):
    """Emotions of the turns of a conversation.

        pipe = AudioEmotionPipeline(model, processor=processor)
        pipe(["turn0.wav", "turn1.wav"])                       # one conversation, in order
        pipe({"audio": "turn2.wav", "speaker": "A"}, memory_cache=cache)  # one more turn of a live one

    A turn is what `load_audio` takes (path, bytes, `(array, rate)`, a dict with `array` and `sampling_rate`), or a
    dict with `audio` and any of `file`, `conversation_id`, `turn_index`, `speaker`, `start`, `end` (seconds). Turns
    without `conversation_id` are one conversation. Each conversation is streamed through its memory, turn by turn.

    Keyword arguments of a call:
        memory_cache: a `ConversationMemoryCache` of one row that is read and carried on; then all turns are of one
            conversation. None: every conversation starts afresh.
        memory (bool): False hears each turn alone. Default True.

    Returns, for each turn (in a list, unless a single turn was given):
        its fields, and `label`, `score` (probability of the label), `scores` (of all labels), `surprise` (mean over
        the memory layers; None without memory).

    Raises:
        ValueError: for sound that cannot be used, or turns out of order, naming the turn. Turns before it have been
            written to `memory_cache`; that turn has not.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, memory_cache=None, memory=None, **unknown):
        if unknown:
            raise ValueError(f"{type(self).__name__} takes memory_cache and memory, got {sorted(unknown)}.")
        if not isinstance(memory, bool | None):
            raise ValueError(f"memory must be True or False, got {memory!r}.")
        parameters = {"memory_cache": memory_cache, "memory": memory}
        return {}, {name: value for name, value in parameters.items() if value is not None}, {}

    def __call__(self, turns, **kwargs) -> list[dict[str, Any]] | dict[str, Any]:
        """See the class."""
        if self.processor is None:
            raise ValueError(f"{type(self).__name__} needs the processor of the model's host: processor=...")
        if not isinstance(turns, _ONE_SOUND) and isinstance(turns, Iterable):
            turns = list(turns)
        if not isinstance(turns, list):
            return self([turns], **kwargs)[0]
        turns = [self._as_turn(turn) for turn in turns]
        self._check_order(turns)
        _, parameters, _ = AudioEmotionPipeline._sanitize_parameters(self, **kwargs)
        parameters = {**self._forward_params, **parameters}
        cache = parameters.pop("memory_cache", None)
        if cache is not None and len({turn.get("conversation_id") for turn in turns}) > 1:
            raise ValueError("With a memory_cache all turns must belong to one conversation.")
        caches: dict[Any, ConversationMemoryCache] = {}
        results = []
        for turn in turns:
            name = turn.get("conversation_id")
            if name not in caches:
                caches[name] = self.model.memory_cache_class(self.model.config) if cache is None else cache
            results.append(self.run_single(turn, {}, {**parameters, "memory_cache": caches[name]}, {}))
        return results

    def conversation_store(self, states: str | Path | None = None, **kwargs) -> ConversationStore:
        """A store of the states of many conversations, whose caches this pipeline takes as `memory_cache`.

        Args:
            states, kwargs: of `ConversationStore`.
        """
        return ConversationStore(self.model, states, **kwargs)

    def preprocess(self, turn: dict) -> dict:
        try:
            inputs = self.model.prepare_turn(self.processor, turn["audio"])
        except ValueError as error:
            names = [f"{name} {turn[name]!r}" for name in ("conversation_id", "file") if turn.get(name) is not None]
            told = f" ({', '.join(names)})" if names else ""
            raise ValueError(f"Turn {turn.get('turn_index')}{told}: {error}") from error
        return {"turn": turn, "inputs": inputs}

    def _forward(self, model_inputs: dict, memory_cache: ConversationMemoryCache, memory: bool = True) -> dict:
        speaker = model_inputs["turn"].get("speaker")
        speakers = None if speaker is None else [speaker_number(speaker)]
        with contextlib.nullcontext() if memory else self.model.disable_memory():
            output = self.model(
                **model_inputs["inputs"], memory_cache=memory_cache, speaker_ids=speakers, logits_to_keep=1
            )
        surprise = None if output.memory_surprise is None else output.memory_surprise.mean().item()
        return {"turn": model_inputs["turn"], "logits": output.emotion_logits, "surprise": surprise}

    def postprocess(self, model_outputs: dict) -> dict[str, Any]:
        probabilities = torch.softmax(model_outputs["logits"][0].float(), dim=-1).tolist()
        scores = dict(zip(self.model.config.labels, probabilities))
        label = max(scores, key=scores.get)
        fields = {name: model_outputs["turn"].get(name) for name in _TURN_FIELDS}
        surprise = model_outputs["surprise"]
        return {**fields, "label": label, "score": scores[label], "scores": scores, "surprise": surprise}

    @staticmethod
    def _as_turn(turn) -> dict:
        if not (isinstance(turn, dict) and "audio" in turn):
            turn = {"audio": turn}
        unknown = sorted({*turn} - {"audio", *_TURN_FIELDS, *_PASSED_OVER})
        if unknown:
            raise ValueError(
                f"A turn is a sound, or a dict with audio and any of {_TURN_FIELDS}; got {unknown} in it."
            )
        source = turn["audio"]
        path = source.get("path") if isinstance(source, dict) else source
        return {"file": str(path) if isinstance(path, str) or hasattr(path, "__fspath__") else None, **turn}

    @staticmethod
    def _check_order(turns: list[dict]) -> None:
        last: dict[Any, dict] = {}
        for position, turn in enumerate(turns):
            before = last.get(turn.get("conversation_id"), {})
            for name in ("turn_index", "start"):
                earlier, later = before.get(name), turn.get(name)
                if later is not None and (isinstance(later, bool) or not isinstance(later, Real) or later != later):
                    raise ValueError(f"Entry {position} has {name}={later!r}, which is no number.")
                if earlier is not None and later is not None and later < earlier:
                    raise ValueError(
                        f"Turns of a conversation must come in order: entry {position} has {name}={later} after "
                        f"{earlier}."
                    )
            last[turn.get("conversation_id")] = turn
            turn.setdefault("turn_index", position)


class AudioTurnPipeline(AudioEmotionPipeline):
    """Single turns, each heard as a conversation of its own, in the way of transformers' audio classification.

    `top_k` labels are returned (of the pipeline, or of a call); None = all.

    It is what `pipeline("audio-classification", repo, trust_remote_code=True)` gives, as the Hub proposes.

    Returns, for each turn (in a list, where a list was given):
        a list of dicts with `label` and `score`, the most probable first.
    """

    def _sanitize_parameters(self, top_k: int | None = None, **unknown):
        if unknown:
            raise ValueError(f"{type(self).__name__} takes top_k, got {sorted(unknown)}.")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be an integer of at least 1, or None, got {top_k!r}.")
        return {}, {}, {"top_k": top_k} if top_k is not None else {}

    def __call__(self, turns, **kwargs) -> list:
        """As `transformers.AudioClassificationPipeline`: a path, bytes, (samples,) at the host's rate, or a dict.

        Args:
            kwargs: `top_k`, instead of that of the pipeline.
        """
        if not isinstance(turns, _ONE_SOUND) and isinstance(turns, Iterable):
            return [self(turn, **kwargs) for turn in turns]
        *_, options = self._sanitize_parameters(**kwargs)
        top_k = {**self._postprocess_params, **options}.get("top_k")
        if isinstance(turns, np.ndarray):
            turns = (turns, self.model.sound_extractor(self.processor).sampling_rate)
        elif isinstance(turns, dict) and "raw" in turns:
            turns = {"array": turns["raw"], "sampling_rate": turns.get("sampling_rate")}
        # Alone, whoever speaks is the only speaker.
        (heard,) = super().__call__([{"audio": turns, "speaker": "speaker"}])
        ranked = sorted(heard["scores"].items(), key=lambda pair: -pair[1])
        return [{"score": score, "label": label} for label, score in ranked[:top_k]]


def custom_pipelines() -> dict[str, dict]:
    """What a configuration says of the pipelines, for `pipeline(task, repo, trust_remote_code=True)`."""
    module = __name__.rsplit(".")[-1]
    classes = {TASK: AudioEmotionPipeline, "audio-classification": AudioTurnPipeline}
    return {
        task: {"impl": f"{module}.{cls.__name__}", "pt": ["AutoModelForMultimodalLM"], "type": "multimodal"}
        for task, cls in classes.items()
    }


def speaker_number(speaker: str) -> int:
    """A number that stands for a speaker's name in every process."""
    return int.from_bytes(hashlib.sha256(str(speaker).encode()).digest()[:7], "big")


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=AudioEmotionPipeline, pt_model=AutoModelForMultimodalLM, type="multimodal"
)
