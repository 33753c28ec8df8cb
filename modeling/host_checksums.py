"""Whether the weights of a host are still those that were loaded."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def host_checksums(model: nn.Module, *, without: tuple[str, ...]) -> dict[str, tuple]:
    """Dtype, shape and a checksum of each tensor of a model, but for those of the children `without`.

    Tensors that are not in memory, and those that are no plain tensors (quantised ones), have no checksum: they count
    as unchanged.
    """
    return {
        key: (str(tensor.dtype), tuple(tensor.shape), _checksum(tensor) if _is_plain(tensor) else None)
        for key, tensor in model.state_dict().items()
        if key.split(".")[0] not in without
    }


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_meta


def _checksum(tensor: Tensor) -> tuple[int, int]:
    """Of the bytes as 64-bit integers, with each row and each column counted by its place; modulo 2^64."""
    matrix = tensor.detach().contiguous()
    matrix = (matrix.flatten(1) if matrix.dim() > 1 else matrix.reshape(1, -1)).view(torch.uint8)
    missing = -matrix.shape[1] % 8
    words = (F.pad(matrix, (0, missing)) if missing else matrix).view(torch.int64)
    sums = (words.sum(axis) for axis in (0, 1))
    return tuple(int((s * torch.arange(1, len(s) + 1, device=s.device)).sum()) for s in sums)
