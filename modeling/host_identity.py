"""Which host a model has: its shape, its weights, and whether they are still those that were loaded."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig


# What PEFT puts between a module and the weight that it stands in for.
_WRAPPERS = (".base_layer.", ".original_module.")


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
    shape = {}
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
    sums = (words.sum(axis) for axis in (0, 1))
    return tuple(int((s * torch.arange(1, 2 * len(s), 2, device=s.device)).sum()) for s in sums)
