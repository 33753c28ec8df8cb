"""Read and write conversation states as files, with the identity of the model they belong to."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedConfig

from .atomic_files import replacing
from .emotion_transitions import are_beliefs
from .host_types import SavedStateBase
from .json_text import parse_json
from .memory_state import NeuralMemoryState
from .model_identity import check_same_model, check_same_weights


STATE_FILE = "conversation_memory.safetensors"

# The checksum of the file with the checksum itself zeroed; other header values are JSON strings whose quotes are
# escaped, so this pattern occurs only once.
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
_COUNTS = {"turns", "tokens"}
# Only of models with emotion transitions.
_BELIEFS = "beliefs"
_HEADER = {"identity", "rows", "notes", "checksum"}


class SavedStateMixin(SavedStateBase):
    """Saving and loading of a `ConversationMemoryCache`."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the state to `folder` as safetensors, with the identity of the model it belongs to.

        Raises:
            OSError: if it cannot be written, as on a full disk; an earlier state in the folder is kept.
        """
        write_state(folder, self.to_bytes())

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, config: PreTrainedConfig, *, weights_fingerprint: str | None = None
    ) -> Self:
        """Read a state written by `save_pretrained`, on the CPU.

        Args:
            folder: where it was written.
            config: configuration of the model that will use it.
            weights_fingerprint: of the model's memory, if it differs from the fingerprint in `config`.

        Raises:
            FileNotFoundError: if there is no state in the folder.
            ValueError: if the state is unreadable, or belongs to another model, naming what differs.
        """
        name = f"in {folder}"
        return cls.from_bytes(read_state(folder), config, weights_fingerprint=weights_fingerprint, name=name)

    def to_bytes(self) -> bytes:
        """The bytes that `save_pretrained` writes."""
        rows = {"conversation_ids": self.conversation_ids, "speaker_ids": self.speaker_ids}
        identity = {**self.identity, "memory_weights": self.weights_fingerprint}
        return state_to_bytes(self._named_tensors(), identity, rows, self.notes)

    @classmethod
    def from_bytes(
        cls,
        content: bytes,
        config: PreTrainedConfig,
        *,
        weights_fingerprint: str | None = None,
        name: str = "given",
    ) -> Self:
        """A state from the bytes of `to_bytes`, on the CPU; errors as `from_pretrained`.

        Args:
            name: name of the state in error messages.
        """
        tensors, identity, rows, notes = state_from_bytes(content, name)
        rows = _checked_rows(rows, config.memory_config.streams_per_row, name)
        cache = cls(config, batch_size=len(rows["speaker_ids"]))
        check_same_model(cache.identity, identity, f"The state {name}")
        cache.weights_fingerprint = identity.get("memory_weights")
        check_same_weights(cache.weights_fingerprint, weights_fingerprint or config.memory_config.weights_fingerprint)
        cache.conversation_ids, cache.speaker_ids = rows["conversation_ids"], rows["speaker_ids"]
        check_tensors(tensors, config, len(rows["speaker_ids"]), name)
        cache.beliefs = tensors.get(_BELIEFS)
        cache.turns, cache.tokens, cache.notes = tensors["turns"], tensors["tokens"], notes
        for index, layer in enumerate(cache.layers):
            weights, momentum = (_numbered(tensors, f"layers.{index}.{kind}") for kind in ("weights", "momentum"))
            if weights:
                layer.state = NeuralMemoryState(weights, momentum)
        return cache

    def _named_tensors(self) -> dict[str, Tensor]:
        tensors = {"turns": self.turns, "tokens": self.tokens}
        if self.beliefs is not None:
            tensors[_BELIEFS] = self.beliefs
        for index, layer in enumerate(self.layers):
            if layer.is_initialized:
                tensors |= {f"layers.{index}.weights.{i}": tensor for i, tensor in enumerate(layer.weights)}
                tensors |= {f"layers.{index}.momentum.{i}": tensor for i, tensor in enumerate(layer.momentum)}
        return tensors


def _numbered(tensors: dict[str, Tensor], name: str) -> tuple[Tensor, ...]:
    """The tensors `name.0`, `name.1`, ... in order."""
    keys = (f"{name}.{index}" for index in range(len(tensors)))
    return tuple(tensors[key] for key in keys if key in tensors)


def state_to_bytes(tensors: dict[str, Tensor], identity: dict, rows: dict, notes: dict) -> bytes:
    """Serialise a state as safetensors; the header holds everything else as JSON, and a checksum of the file.

    Raises:
        TypeError: for notes that are not JSON-serialisable.
    """
    header = {"identity": identity, "rows": rows, "notes": notes}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    zeros = "0" * 64
    content = save(tensors, {name: json.dumps(value) for name, value in header.items()} | {"checksum": zeros})
    empty, filled = (f'"checksum":"{digits}"'.encode() for digits in (zeros, hashlib.sha256(content).hexdigest()))
    return content.replace(empty, filled, 1)


def state_from_bytes(content: bytes, name: str = "given") -> tuple[dict[str, Tensor], dict, dict, dict]:
    """Tensors on the CPU, identity, rows and notes, as they were passed to `state_to_bytes`.

    Args:
        name: name of the state in error messages.

    Raises:
        ValueError: if it is truncated, modified, or not a state.
    """
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        # Files of version 0.2.0 have no notes.
        header = {"notes": "{}", **parse_json(content[8 : 8 + length])["__metadata__"]}
        if unknown := {*header} - _HEADER:
            raise TypeError(f"its header has {len(unknown)} unknown fields")
        _check_checksum(content, length, is_there="checksum" in header)
        identity, rows, notes = (parse_json(header[part]) for part in ("identity", "rows", "notes"))
        if not all(isinstance(part, dict) for part in (identity, rows, notes, *rows["speaker_ids"])):
            raise TypeError("its header has values of a wrong type")
        return tensors, identity, rows, notes
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The conversation memory {name} cannot be read: {error}") from error


def _check_checksum(content: bytes, length: int, *, is_there: bool) -> None:
    """Raise ValueError if the checksum does not match; states of earlier versions have no checksum."""
    if not is_there:
        return
    found = list(_CHECKSUM.finditer(content, 8, 8 + length))
    if len(found) != 1:
        raise ValueError("its checksum is malformed")
    start, end = found[0].span(1)
    digest = hashlib.sha256(content[:start])
    digest.update(b"0" * 64)
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != found[0][1]:
        raise ValueError("its checksum does not match its content")


def _checked_rows(rows: dict, slots: int, name: str) -> dict:
    """Validate the row of each conversation and the slot of each speaker in an untrusted header.

    Raises:
        ValueError: naming the state.
    """

    def numbers(given, most: int) -> dict[int, int]:
        known = {int(key): place for key, place in given.items()}
        places = list(known.values())
        if any(type(place) is not int or not 0 <= place < most for place in places) or len({*places}) < len(places):
            raise ValueError(
                f"its row or slot numbers are {reprlib.repr(places)}, expected different ones from 0 to {most - 1}"
            )
        return known

    try:
        of_speakers, ids = rows["speaker_ids"], rows["conversation_ids"]
        if not isinstance(of_speakers, list) or not of_speakers:
            raise ValueError("it has no rows")
        speakers = [numbers(given, slots) for given in of_speakers]
        return {"conversation_ids": None if ids is None else numbers(ids, len(speakers)), "speaker_ids": speakers}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The conversation memory {name} cannot be read: {error}") from error


def check_tensors(tensors: dict[str, Tensor], config: PreTrainedConfig, rows: int, name: str) -> None:
    """Check that a state's tensors are complete, of the expected shapes and dtypes, and finite.

    Args:
        config: the configuration of the model.
        rows: number of rows of the cache.

    Raises:
        ValueError: naming what is wrong.
    """
    memory, hidden_size = config.memory_config, config.get_text_config(decoder=True).hidden_size
    streams = rows * memory.streams_per_row
    wanted: dict[str, tuple[int, ...]] = {"turns": (streams,), "tokens": (streams,)}
    if {*tensors} - {_BELIEFS} != {*wanted}:  # something was written
        wanted |= {
            f"layers.{layer}.{kind}.{index}": (streams, *shape)
            for layer in range(len(memory.layers))
            for kind in ("weights", "momentum")
            for index, shape in enumerate(memory.state_shapes(layer, hidden_size))
        }
    if _BELIEFS in tensors:
        wanted[_BELIEFS] = (rows, len(config.labels))
    wrong = sorted({*tensors} ^ {*wanted}) or sorted(key for key in wanted if tuple(tensors[key].shape) != wanted[key])
    if wrong:
        raise ValueError(
            f"The conversation memory {name} is broken: {reprlib.repr(wrong)} are missing, unexpected or of a wrong "
            "shape."
        )
    counts, others = (
        [tensors["turns"], tensors["tokens"]],
        [tensors[key] for key in wanted.keys() - _COUNTS - {_BELIEFS}],
    )
    if any(tensor.dtype != torch.int64 or bool((tensor < 0).any()) for tensor in counts):
        raise ValueError(f"The conversation memory {name} is broken: its turns and tokens are not counts.")
    if {tensor.dtype for tensor in others} not in (set(), {torch.float32}, {torch.float64}):
        raise ValueError(f"The conversation memory {name} is broken: its tensors are not all float32 or float64.")
    if not all(bool(tensor.isfinite().all()) for tensor in others):
        raise ValueError(f"The conversation memory {name} is broken: it has values that are not finite.")
    if _BELIEFS in tensors and not are_beliefs(tensors[_BELIEFS]):
        raise ValueError(f"The conversation memory {name} is broken: its beliefs are not probabilities.")


def write_state(folder: str | Path, content: bytes) -> None:
    """Write a state to `folder` atomically; the folder is created if it does not exist.

    Raises:
        OSError: as on a full disk; an earlier state in the folder is kept.
    """
    path = Path(folder) / STATE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(content)


def read_state(folder: str | Path) -> bytes:
    """Read the bytes written by `write_state`.

    Raises:
        FileNotFoundError: if there is no state in the folder.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No conversation memory in {folder}: {STATE_FILE} is missing.")
    return path.read_bytes()
