"""The file that a conversation's state is kept in, and what tells whose state it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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


def save_state(folder: str | Path, tensors: dict[str, Tensor], identity: dict, rows: dict) -> None:
    """Write a state to `folder`, which is made if it does not exist."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    metadata = {"identity": json.dumps(identity), "rows": json.dumps(rows)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, Path(folder) / STATE_FILE, metadata)


def load_state(folder: str | Path) -> tuple[dict[str, Tensor], dict, dict]:
    """Tensors on the CPU, identity and rows, as they were given to `save_state`.

    Raises:
        FileNotFoundError: if there is no state in the folder.
        ValueError: if the file is truncated or not a state.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No conversation memory in {folder}: {STATE_FILE} is missing.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return tensors, json.loads(metadata["identity"]), json.loads(metadata["rows"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"The conversation memory in {path} cannot be read: {error}") from error
