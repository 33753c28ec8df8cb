"""What the gradients by hand share: when they are taken, and in which dtype."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def goes_by_hand() -> bool:
    """Whether autograd records what is computed. A compiler derives, and fuses, the plain form itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Within it, what is computed on the tensor's device stays in the dtype it has."""
    # There is none on the meta device, where the needs of a training are estimated.
    return contextlib.nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)
