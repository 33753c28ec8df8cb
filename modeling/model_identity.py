"""What belongs together: which host a model has, which weights its memory has, and which state was written by them."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedConfig


# What PEFT puts between a module and the weight that it stands in for.
_WRAPPERS = (".base_layer.", ".original_module.")

# What a state's meaning depends on; the host's shape stands beside the memory's.
_HOST_FIELDS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")

# Fields of `TitansMemoryConfig` that older states do not name, with the value that they were written under.
_LATER_FIELDS = {"step_bound": "token", "feature_map": "identity"}
# These say nothing of a model without a memory of voices.
_VOICE_FIELDS = (
    "voice_layers",
    "voice_key_dim",
    "voice_key_offset",
    "voice_step",
    "voice_shrinkage",
    "voice_emotions",
)


# --- Which host


def host_checksums(state_dict: dict[str, Tensor], *, without: tuple[str, ...]) -> dict[str, tuple]:
    """Dtype, shape and a checksum of each of a model's tensors, but for those of the children `without`.

    Tensors that are not in memory, and those that are no plain tensors (quantised ones), have no checksum: they count
    as unchanged. Weights that PEFT wraps keep their names.
    """
    return {
        _unwrapped(key): (str(tensor.dtype), tuple(tensor.shape), _checksum(tensor) if _is_plain(tensor) else None)
        for key, tensor in state_dict.items()
        if key.split(".")[0] not in without
    }


def host_fingerprint(checksums: dict[str, tuple]) -> str | None:
    """A name of a host's weights in their dtypes, "bfloat16-0123456789abcdef"; None where some have no checksum.

    It depends on the order of the weights, and not on their names, which versions of transformers change.
    """
    if any(checksum is None for _, _, checksum in checksums.values()):
        return None
    dtypes = sorted({dtype.removeprefix("torch.") for dtype, _, _ in checksums.values()})
    digest = hashlib.sha256(repr(list(checksums.values())).encode()).hexdigest()[:16]
    return f"{'+'.join(dtypes)}-{digest}"


def changed_weights(
    before: dict[str, tuple], state_dict: dict[str, Tensor], *, without: tuple[str, ...], added: tuple[str, ...] = ()
) -> list[str]:
    """Names of weights that are not those of the checksums `before`, or were not there.

    Args:
        before: of `host_checksums`.
        state_dict: of the model now.
        without: children of the model that are passed over.
        added: names of modules, as those of adapters, whose new weights are passed over.
    """
    after = host_checksums(state_dict, without=without)
    changed = [key for key in before if before[key] != after.get(key)]
    return sorted(changed + [key for key in {*after} - {*before} if not {*key.split(".")} & {*added}])


def is_other_host(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints are of different weights; those in different dtypes cannot be told apart."""
    if one is None or other is None or one.split("-")[0] != other.split("-")[0]:
        return False
    return one != other


def differing_shape(one: PreTrainedConfig | dict, other: PreTrainedConfig | dict) -> dict[str, tuple]:
    """The integers that say how large a host is, where two of its configurations differ; ids of tokens apart."""
    shapes = [_shape(config if isinstance(config, dict) else config.to_dict()) for config in (one, other)]
    names = [name for name in shapes[0] if name in shapes[1] and shapes[0][name] != shapes[1][name]]
    return {name: (shapes[0][name], shapes[1][name]) for name in names}


def _shape(fields: dict, prefix: str = "") -> dict[str, int]:
    shape: dict[str, int] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            shape |= _shape(value, f"{prefix}{name}.")
        elif type(value) is int and "token" not in name:
            shape[prefix + name] = value
    return shape


def _unwrapped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, ".")
    return key


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta


def _checksum(tensor: Tensor) -> tuple[int, int]:
    """Of the bytes as 64-bit integers, with each row and each column counted by its place; modulo 2^64.

    High bits are mixed into low ones, and places are counted by odd numbers, so that no bit is lost in the modulus.
    """
    if not tensor.numel():
        return 0, 0
    matrix = tensor.detach().contiguous()
    matrix = (matrix.flatten(1) if matrix.dim() > 1 else matrix.reshape(1, -1)).view(torch.uint8)
    missing = -matrix.shape[1] % 8
    words = (F.pad(matrix, (0, missing)) if missing else matrix).view(torch.int64)
    words = words ^ (words >> 29) ^ (words >> 47)
    rows, columns = (
        int((s * torch.arange(1, 2 * len(s), 2, device=s.device)).sum()) for s in (words.sum(axis) for axis in (0, 1))
    )
    return rows, columns


# --- Which memory


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """A name of a memory's `state_dict`, the same in float32 and float64."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class FingerprintOfModule:
    """The `weights_fingerprint` of a module, which is computed again only where the weights may have changed.

    What is asked for that is known without a look at a weight, which would wait for an accelerator: the weights'
    storage, how often they were changed in place, and whether an optimizer of torch took a step (fused ones are not
    counted in place). A change through `.data` alone is none of these: `forget` it.
    """

    def __init__(self):
        self._seen: list | None = None
        self._fingerprint: str | None = None

    def forget(self) -> None:
        self._seen = None

    def of(self, module: nn.Module) -> str | None:
        """None where the weights are not at hand: on the meta device, or sharded."""
        parameters = list(module.parameters())
        present = [_optimizer_steps, *[(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]]
        if self._seen != present:
            is_away = any(parameter.is_meta or hasattr(parameter, "full_tensor") for parameter in parameters)
            self._fingerprint = None if is_away else weights_fingerprint(module.state_dict())
            self._seen = present
        return self._fingerprint


_optimizer_steps = 0


def _count_optimizer_step(*_) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_optimizer_step)


# --- Whose state


def state_identity(config: PreTrainedConfig) -> dict:
    """What a state of a model with `config` belongs to: the host and its shape, and the memory."""
    text = config.get_text_config(decoder=True)
    memory = config.memory_config.to_dict()
    for key in ("transformers_version", "dtype", "weights_fingerprint"):
        memory.pop(key, None)
    memory = {key: value for key, value in memory.items() if (key, value) not in _LATER_FIELDS.items()}
    if not config.memory_config.voice_layers:
        memory = {key: value for key, value in memory.items() if key not in _VOICE_FIELDS}
    described = json.dumps(memory, sort_keys=True, default=str)
    host = {field: getattr(config if field == "model_type" else text, field, None) for field in _HOST_FIELDS}
    return {
        **host,
        "memory_layers": list(config.memory_config.layers),
        "memory_config": hashlib.sha256(described.encode()).hexdigest()[:16],
    }


def check_same_model(own: dict, other: dict, what: str) -> None:
    """Compare the identity of a cache with that of `what`.

    Raises:
        ValueError: naming what differs.
    """
    differing = [key for key in own if own[key] != other.get(key)]
    if differing:
        raise ValueError(
            f"{what} and the cache belong to different models: { ({key: other.get(key) for key in differing}) } "
            f"and { ({key: own[key] for key in differing}) }."
        )


def check_same_weights(writer: str | None, reader: str | None) -> None:
    """Compare the fingerprint of the memory that wrote a state with that of the one that is to read it.

    Raises:
        ValueError: if both are known and differ.
    """
    if None not in (writer, reader) and writer != reader:
        raise ValueError(
            f"The state was written by a memory with other weights ({writer}) than this one's ({reader}): use the "
            "model that wrote it, or reset() the cache."
        )
