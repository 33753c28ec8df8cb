"""Device placement of the memory in a model that accelerate distributes over devices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .host_types import HostModel
from .memory_injection import decoder_blocks
from .titans_memory_layer import make_layer


def keep_memory_with_its_blocks(model: HostModel, *, is_fresh: bool) -> None:
    """Put each memory layer on the device of its decoder block, without accelerate's hooks.

    A `device_map` treats the memory as one more module at the end of the model, and may offload it. The memory is
    small and its weights are accessed by name at each call, so it stays with its blocks and is never offloaded.

    Args:
        model: with a memory; nothing is done if it was loaded without a `device_map`.
        is_fresh: whether to initialise weights that were offloaded, since no checkpoint holds them.
    """
    if getattr(model, "hf_device_map", None) is None:
        return
    blocks, memory = decoder_blocks(model), model.titans_memory
    for position, index in enumerate(memory.config.layers):
        old = memory.layers[position]
        new = make_layer(memory.config, position, model.config.get_text_config(decoder=True).hidden_size)
        _take_over(new, old, memory._init_weights if is_fresh else None)
        memory.layers[position] = new.to(_execution_device(blocks[index]))
    for name in {*model.extension_names} - {"titans_memory"}:
        old = getattr(model, name)
        head = nn.Linear(old.in_features, old.out_features)
        _take_over(head, old, model._init_weights if is_fresh else None)
        setattr(model, name, head.to(_execution_device(blocks[-1])))


def _execution_device(block: nn.Module) -> torch.device:
    device = getattr(getattr(block, "_hf_hook", None), "execution_device", None)
    return next(block.parameters()).device if device is None else torch.device(device)


def _take_over(new: nn.Module, old: nn.Module, initialize: Callable | None) -> None:
    """Copy the weights of `old` into `new`; if they were offloaded and `initialize` is given, initialise `new`."""
    if any(parameter.is_meta for parameter in old.parameters()) and initialize is not None:
        new.apply(initialize)
    else:
        new.load_state_dict(_weights_in_memory(old))
        new.to(next(old.parameters()).dtype)
    new.train(old.training)


def _weights_in_memory(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module, offloaded ones fetched by accelerate."""
    try:  # A device_map requires accelerate, so it is normally installed.
        from accelerate.utils import align_module_device
    except ImportError as error:
        raise ImportError("A device_map needs accelerate: pip install accelerate") from error
    weights: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        with align_module_device(part):
            own = part.named_parameters(recurse=False)
            weights |= {f"{prefix}.{name}".lstrip("."): weight.detach().clone() for name, weight in own}
    return weights
