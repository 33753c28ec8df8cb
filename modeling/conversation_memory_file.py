"""A conversation's state in a file: what tells whose state it is, and how it is written and read."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedConfig

from .memory_state import NeuralMemoryState


STATE_FILE = "conversation_memory.safetensors"

# What a state's meaning depends on; the host's shape stands beside the memory's.
_HOST_FIELDS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")

# Fields of `TitansMemoryConfig` that older states do not name, with the value that they were written under.
_LATER_FIELDS = {"step_bound": "token", "feature_map": "identity"}


def memory_identity(config: PreTrainedConfig) -> dict:
    """What a state of a model with `config` belongs to: the host and its shape, and the memory."""
    text = config.get_text_config(decoder=True)
    memory = config.memory_config.to_dict()
    for key in ("transformers_version", "dtype", "weights_fingerprint"):
        memory.pop(key, None)
    memory = {key: value for key, value in memory.items() if (key, value) not in _LATER_FIELDS.items()}
    described = json.dumps(memory, sort_keys=True, default=str)
    host = {field: getattr(config if field == "model_type" else text, field, None) for field in _HOST_FIELDS}
    return {
        **host,
        "memory_layers": list(config.memory_config.layers),
        "memory_config": hashlib.sha256(described.encode()).hexdigest()[:16],
    }


class SavedStateMixin:
    """Saving and loading of a `ConversationMemoryCache`."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the state to `folder` as safetensors, with the identity of the model it belongs to.

        Raises:
            OSError: if it cannot be written, as on a full disk; an earlier state in the folder is then there still.
        """
        write_state(folder, self.to_bytes())

    @classmethod
    def from_pretrained(cls, folder: str | Path, config: PreTrainedConfig) -> Self:
        """Read a state that `save_pretrained` wrote, on the CPU.

        Args:
            folder: where it was written.
            config: of the model that will use it.

        Raises:
            FileNotFoundError: if there is no state in the folder.
            ValueError: if the state cannot be read, or belongs to another model, naming what differs.
        """
        return cls.from_bytes(read_state(folder), config, name=f"in {folder}")

    def to_bytes(self) -> bytes:
        """The state as `save_pretrained` writes it."""
        rows = {"conversation_ids": self.conversation_ids, "speaker_ids": self.speaker_ids}
        identity = {**self.identity, "memory_weights": self.weights_fingerprint}
        return state_to_bytes(self._named_tensors(), identity, rows, self.notes)

    @classmethod
    def from_bytes(cls, content: bytes, config: PreTrainedConfig, *, name: str = "given") -> Self:
        """A state that `to_bytes` gave, on the CPU; errors as `from_pretrained`.

        Args:
            name: of the state, for what is said of it.
        """
        tensors, identity, rows, notes = state_from_bytes(content, name)
        cache = cls(config, batch_size=len(rows["speaker_ids"]))
        cache.check_identity(identity, f"The state {name}")
        cache.weights_fingerprint = identity.get("memory_weights")
        cache.check_weights(config.memory_config.weights_fingerprint)
        ids = rows["conversation_ids"]
        cache.conversation_ids = None if ids is None else {int(key): row for key, row in ids.items()}
        cache.speaker_ids = [{int(key): slot for key, slot in speakers.items()} for speakers in rows["speaker_ids"]]
        check_tensors(tensors, config.memory_config, len(rows["speaker_ids"]), name)
        cache.turns, cache.tokens, cache.notes = tensors["turns"], tensors["tokens"], notes
        for index, layer in enumerate(cache.layers):
            weights, momentum = (_numbered(tensors, f"layers.{index}.{kind}") for kind in ("weights", "momentum"))
            if weights:
                layer.state = NeuralMemoryState(weights, momentum)
        return cache

    def _named_tensors(self) -> dict[str, Tensor]:
        tensors = {"turns": self.turns, "tokens": self.tokens}
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
    """A state in safetensors; what is no tensor stands in its header.

    Raises:
        TypeError: for notes that JSON cannot hold.
    """
    header = {"identity": identity, "rows": rows, "notes": notes}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(tensors, {name: json.dumps(value) for name, value in header.items()})


def state_from_bytes(content: bytes, name: str = "given") -> tuple[dict[str, Tensor], dict, dict, dict]:
    """Tensors on the CPU, identity, rows and notes, as they were given to `state_to_bytes`.

    Args:
        name: of the state, for what is said of it.

    Raises:
        ValueError: if it is truncated or no state.
    """
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        # Files of version 0.2.0 have no notes.
        header = {"notes": "{}", **json.loads(content[8 : 8 + length])["__metadata__"]}
        identity, rows, notes = (json.loads(header[part]) for part in ("identity", "rows", "notes"))
        if not all(isinstance(part, dict) for part in (identity, rows, notes, *rows["speaker_ids"])):
            raise TypeError("its header is of another kind")
        return tensors, identity, rows, notes
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The conversation memory {name} cannot be read: {error}") from error


def check_tensors(tensors: dict[str, Tensor], memory: PreTrainedConfig, rows: int, name: str) -> None:
    """Refuse a state whose tensors are not all there, or not of their shapes, or not finite.

    Args:
        memory: the memory's configuration.
        rows: of the cache.

    Raises:
        ValueError: naming what is wrong.
    """
    streams = rows * memory.streams_per_row
    wanted = {"turns": (streams,), "tokens": (streams,)}
    if {*tensors} != {*wanted}:  # something was written
        wanted |= {
            f"layers.{layer}.{kind}.{index}": (streams, memory.num_heads, *shape)
            for layer in range(len(memory.layers))
            for kind in ("weights", "momentum")
            for index, shape in enumerate(memory.matrix_shapes())
        }
    wrong = sorted({*tensors} ^ {*wanted}) or sorted(key for key in wanted if tuple(tensors[key].shape) != wanted[key])
    if wrong:
        raise ValueError(
            f"The conversation memory {name} is broken: {wrong} are missing, too many or of a wrong shape."
        )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"The conversation memory {name} is broken: it has numbers that are not finite.")


def write_state(folder: str | Path, content: bytes) -> None:
    """Write a state to `folder`, which is made if it does not exist; wholly or not at all.

    Raises:
        OSError: as on a full disk; what was there before is there still.
    """
    path = Path(folder) / STATE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_state(folder: str | Path) -> bytes:
    """What `write_state` wrote.

    Raises:
        FileNotFoundError: if there is no state in the folder.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No conversation memory in {folder}: {STATE_FILE} is missing.")
    return path.read_bytes()
