"""The file that a conversation's state is kept in, and what tells whose state it is."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedConfig


STATE_FILE = "conversation_memory.safetensors"

# What a state's meaning depends on; the host's shape stands beside the memory's.
_HOST_FIELDS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def memory_identity(config: PreTrainedConfig) -> dict:
    """What a state of a model with `config` belongs to: the host and its shape, and the memory."""
    text = config.get_text_config(decoder=True)
    memory = config.memory_config.to_dict()
    for key in ("transformers_version", "dtype", "weights_fingerprint"):
        memory.pop(key, None)
    described = json.dumps(memory, sort_keys=True, default=str)
    host = {field: getattr(config if field == "model_type" else text, field, None) for field in _HOST_FIELDS}
    return {
        **host,
        "memory_layers": list(config.memory_config.layers),
        "memory_config": hashlib.sha256(described.encode()).hexdigest()[:16],
    }


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
