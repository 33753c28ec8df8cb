# Made by titans_mal, at every publication anew; without this line it is kept as it is.
"""An Inference Endpoint of a model with conversational memory.

It stands on the code of its own repository and on the packages in `requirements.txt`. Settings are environment
variables: `CONVERSATIONS_FOLDER` (where states lie that are not at hand; default: a temporary folder),
`MAX_LIVE_CONVERSATIONS` (at hand at once; default 64) and `CONVERSATION_SECONDS` (for which a conversation is kept
after its last request; default 3600).
"""

from __future__ import annotations

import atexit
import base64
import binascii
import os
import reprlib
from typing import Any

import torch
from transformers import pipeline


MAX_NAME = 200  # characters
# Of a request: turns; of each, the size of its file, and how long its audio lasts as it is decoded.
MAX_TURNS, MAX_MEGABYTES, MAX_SECONDS = 64, 25, 300.0
_TURN_FIELDS = ("audio", "speaker", "start", "end")
_PARAMETERS = ("conversation", "reset", "memory", "speaker")


class EndpointHandler:
    """Answers requests with the emotion of each turn; conversations live across requests.

    Args:
        path: the folder of the repository.
    """

    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        task: Any = "audio-emotion"  # of the repository's own code
        self.pipeline: Any = pipeline(task, model=path, trust_remote_code=True, device=device)
        self.pipeline.max_turn_seconds = MAX_SECONDS
        self.store = self.pipeline.conversation_store(
            os.environ.get("CONVERSATIONS_FOLDER") or None,
            max_live=int(os.environ.get("MAX_LIVE_CONVERSATIONS", "64")),
            time_to_live=float(os.environ.get("CONVERSATION_SECONDS", "3600")),
        )
        if os.environ.get("CONVERSATIONS_FOLDER"):
            # For the next process to go on; what is at hand when this one is killed is forgotten.
            atexit.register(self.store.save)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]] | dict[str, Any]:
        """Score the turns of a request.

        Args:
            data: `inputs`: the bytes of an audio file, its base64, a turn `{"audio": base64, "speaker", "start",
                "end"}`, or `{"turns": [...]}` or a list of them, in the order of their ends; empty with `reset`
                alone. `parameters`: `conversation` (a name, whose state lives across requests; without it the turns
                of the request are a conversation that is dropped), `reset` (begin it again), `memory` (False scores
                each turn alone, and writes and counts none), `speaker` (of turns that name none).

        Returns:
            One dict a turn: `turn_index` in the conversation, `speaker`, `start`, `end`, `label`, `score`, `scores`,
            `surprise`, `processed_seconds` (less than the turn lasts where it is longer than the host's window), and
            `history_lost` where a process was killed that had earlier turns in memory; or
            `{"error": ..., "status": 400}` (503 where a state cannot be written) for a request that cannot be
            answered, which changes no state.
        """
        try:
            if not isinstance(data, dict) or {*data} - {"inputs", "parameters"}:
                raise ValueError("A request holds inputs and parameters, and nothing else.")
            parameters = _check_parameters(data.get("parameters") or {})
            turns = [_decoded(turn, parameters.get("speaker")) for turn in _turns(data.get("inputs"), parameters)]
            return self._score(turns, parameters)
        except ValueError as error:
            return {"error": str(error), "status": 400}
        except OSError as error:  # as on a full disk
            return {"error": str(error), "status": 503}

    def _score(self, turns: list[dict], parameters: dict) -> list[dict[str, Any]]:
        memory, name = parameters.get("memory", True), parameters.get("conversation")
        if name is None:
            return _answers(self.pipeline(_numbered(turns, 0), memory=memory))
        with self.store.conversation(str(name), anew=parameters.get("reset", False)) as cache:
            turns = _numbered(turns, int(cache.turns.sum()))
            answers = _answers(self.pipeline(turns, memory_cache=cache, memory=memory) if turns else [])
            lost = {"history_lost": True} if cache.notes.get("history_lost") else {}
            return [{**answer, **lost} for answer in answers]


def _check_parameters(parameters: Any) -> dict:
    if not isinstance(parameters, dict) or {*parameters} - {*_PARAMETERS}:
        raise ValueError(f"parameters may hold {', '.join(_PARAMETERS)}, got {reprlib.repr(parameters)}.")
    parameters = {name: value for name, value in parameters.items() if value is not None}
    for name in ("reset", "memory"):
        if not isinstance(parameters.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, got {reprlib.repr(parameters[name])}.")
    for name in ("conversation", "speaker"):
        _check_name(name, parameters.get(name))
    if parameters.get("reset") and parameters.get("conversation") is None:
        raise ValueError("reset begins a conversation again: name it as conversation.")
    return parameters


def _check_name(what: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{what} must be a name, got {reprlib.repr(value)}.")
    if (len(value) if isinstance(value, str) else value.bit_length()) > MAX_NAME:
        raise ValueError(f"{what} must be a name of up to {MAX_NAME} characters, got {reprlib.repr(value)}.")
    if any("\ud800" <= character <= "\udfff" for character in str(value)):
        raise ValueError(f"{what} must be a name in UTF-8, got {reprlib.repr(value)}.")


def _turns(inputs: Any, parameters: dict) -> list:
    """The turns of a request, each as it was sent."""
    if isinstance(inputs, dict) and "turns" in inputs:
        if {*inputs} != {"turns"} or not isinstance(inputs["turns"], list):
            raise ValueError("Beside a list of turns, inputs hold nothing else.")
        inputs = inputs["turns"]
    turns = inputs if isinstance(inputs, list) else [inputs] if inputs else []
    if not turns and not parameters.get("reset"):
        raise ValueError("inputs hold no sound: send the bytes of a sound file, its base64, or turns.")
    if len(turns) > MAX_TURNS:
        raise ValueError(f"A request holds up to {MAX_TURNS} turns, got {len(turns)}.")
    return turns


def _decoded(turn: Any, speaker: str | int | None) -> dict:
    """A turn with the bytes of its sound file."""
    turn = turn if isinstance(turn, dict) else {"audio": turn}
    if "audio" not in turn or {*turn} - {*_TURN_FIELDS}:
        raise ValueError(f"A turn holds audio, and may hold speaker, start and end; got {reprlib.repr([*turn])}.")
    _check_name("speaker", turn.get("speaker"))
    audio = turn["audio"]
    if isinstance(audio, str):
        try:
            # What a browser makes of a file stands behind "data:audio/wav;base64,".
            audio = base64.b64decode(audio.rpartition(";base64,")[2], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                "audio in text must be base64 of a sound file; addresses and paths are not read."
            ) from None
    if not isinstance(audio, bytes | bytearray):
        raise ValueError(f"audio must be bytes or base64, got {type(audio).__name__}.")
    if len(audio) > MAX_MEGABYTES * 1_000_000:
        raise ValueError(f"A turn is a file of up to {MAX_MEGABYTES} MB, got {len(audio) / 1e6:.1f} MB.")
    named = speaker if turn.get("speaker") is None else turn["speaker"]
    return {**turn, "audio": bytes(audio), "speaker": None if named is None else str(named)}


def _numbered(turns: list[dict], first: int) -> list[dict]:
    return [{**turn, "turn_index": first + place} for place, turn in enumerate(turns)]


def _answers(results: list[dict]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in turn.items() if name not in ("file", "conversation_id")} for turn in results
    ]
