"""Identity of hosts, memory weights and states: fingerprints, and checks that a state belongs to a model."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PreTrainedConfig

from .configuration_titans_memory import FIRST_DEFAULTS


# Inserted by PEFT into the names of wrapped weights.
_WRAPPERS = (".base_layer.", ".original_module.")

# Fields of the host that determine whether a state is compatible, beside the memory's configuration.
_HOST_FIELDS = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")

# Fields of `TitansMemoryConfig` added later: states that were written with their first defaults do not have them.
_LATER_FIELDS = ("step_bound", "feature_map")
# Fields that matter only if the model has voice memory layers.
_VOICE_FIELDS = (
    "voice_layers",
    "voice_key_dim",
    "voice_key_offset",
    "voice_step",
    "voice_shrinkage",
    "voice_emotions",
)


# --- Identity of a host


def host_checksums(state_dict: dict[str, Tensor], *, without: tuple[str, ...]) -> dict[str, tuple]:
    """Dtype, shape and checksum of each of a model's tensors, except those of the modules `without`.

    Tensors that are not in memory, and subclasses such as quantised tensors, have no checksum and count as unchanged.
    Weights wrapped by PEFT keep their names.
    """
    return {
        _unwrapped(key): (str(tensor.dtype), tuple(tensor.shape), _checksum(tensor) if _is_plain(tensor) else None)
        for key, tensor in state_dict.items()
        if key.split(".")[0] not in without
    }


def host_fingerprint(checksums: dict[str, tuple]) -> str | None:
    """Fingerprint of a host's weights in their dtypes, "bfloat16-0123456789abcdef"; None if a checksum is missing.

    It depends on the order of the weights but not on their names, which differ between versions of transformers.
    """
    if any(checksum is None for _, _, checksum in checksums.values()):
        return None
    dtypes = sorted({dtype.removeprefix("torch.") for dtype, _, _ in checksums.values()})
    digest = hashlib.sha256(repr(list(checksums.values())).encode()).hexdigest()[:16]
    return f"{'+'.join(dtypes)}-{digest}"


def changed_weights(
    before: dict[str, tuple], state_dict: dict[str, Tensor], *, without: tuple[str, ...], added: tuple[str, ...] = ()
) -> list[str]:
    """Names of weights that were changed or added since the checksums `before`.

    Args:
        before: the result of `host_checksums`.
        state_dict: the current weights of the model.
        without: modules of the model to ignore.
        added: names of modules, such as adapters, whose new weights are ignored.
    """
    after = host_checksums(state_dict, without=without)
    changed = [key for key in before if before[key] != after.get(key)]
    return sorted(changed + [key for key in {*after} - {*before} if not {*key.split(".")} & {*added}])


def is_other_host(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints are of different weights; False for different dtypes, which cannot be compared."""
    if one is None or other is None or one.split("-")[0] != other.split("-")[0]:
        return False
    return one != other


def differing_shape(one: PreTrainedConfig | dict, other: PreTrainedConfig | dict) -> dict[str, tuple]:
    """The integer sizes in which two configurations of a host differ, except token ids."""
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
    """Checksum of the bytes as 64-bit integers, with the sums of rows and columns weighted by position, modulo 2^64.

    High bits are mixed into low ones, and the weights are odd, so that no bit is lost in the modulus.
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


# --- Identity of a memory


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """Fingerprint of a memory's `state_dict`, the same in float32 and float64."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class FingerprintOfModule:
    """The `weights_fingerprint` of a module, recomputed only if the weights may have changed.

    Changes are detected without reading weights, which would wait for an accelerator: by the storage of the weights,
    their version counters, and the number of steps of any torch optimizer (fused optimizers do not increase the
    counters). A change through `.data` is not detected: call `forget`.
    """

    def __init__(self):
        self._seen: list | None = None
        self._fingerprint: str | None = None

    def forget(self) -> None:
        self._seen = None

    def of(self, module: nn.Module) -> str | None:
        """The fingerprint; None if the weights are on the meta device or sharded."""
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


# --- Identity of a state


def state_identity(config: PreTrainedConfig) -> dict:
    """The host, its shape, and the memory that a state of a model with `config` belongs to."""
    text = config.get_text_config(decoder=True)
    memory = config.memory_config.to_dict()
    for key in ("transformers_version", "dtype", "weights_fingerprint"):
        memory.pop(key, None)
    later = {key: FIRST_DEFAULTS[key] for key in _LATER_FIELDS}
    memory = {key: value for key, value in memory.items() if (key, value) not in later.items()}
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
        # The other one may come from a file.
        theirs, ours = ({key: identity.get(key) for key in differing} for identity in (other, own))
        raise ValueError(f"{what} and the cache belong to different models: {theirs!s:.1000} and {ours}.")


def check_same_weights(writer: str | None, reader: str | None) -> None:
    """Compare the fingerprint of the memory that wrote a state with that of the memory that will read it.

    Raises:
        ValueError: if both are known and differ.
    """
    if None not in (writer, reader) and writer != reader:
        raise ValueError(
            f"The state was written by a memory with other weights ({writer!s:.80}) than this one ({reader}): use the "
            "model that wrote it, or reset() the cache."
        )
