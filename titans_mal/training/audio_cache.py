"""Cache on disk for the outputs of a frozen audio tower, which are the same in every epoch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..modeling.atomic_files import replacing
from ..modeling.model_identity import host_checksums, host_fingerprint


# Precision of the cache, whatever the host's precision.
DTYPE = torch.float16
_HIDDEN, _LENGTH = "last_hidden_state", "positions"


class AudioTowerCache:
    """Caches the outputs of a model's frozen audio tower in float16, one file for each turn's features.

    Within `with cache:`, the tower computes only features that are not in the folder; the rest of the model, including
    its projector and a LoRA on its language model, is computed as usual. Outputs are those of a tower in evaluation
    mode rounded to float16, also the first time, so training does not depend on whether the cache was filled before.
    Several processes, models and trainings may share a folder. Files are named by a hash of a turn's features and
    mask, and their folder by the tower's class and weights.

    ```python
    with AudioTowerCache(model, "features"):
        model(**inputs)  # or training, evaluation, a pipeline
    ```

    Args:
        model: a model with memory, whose audio tower processes each turn independently (its `row_wise_tower` is set).
        folder: created when the first features are stored.

    Attributes:
        folder: the subfolder of this tower.
        found, computed: number of turns that were read from the folder, and that were computed.

    Raises:
        ValueError: for a host whose tower does not process each turn independently, and for a tower that is trained,
            has a PEFT adapter, or has weights without a fingerprint (quantised or offloaded ones).
    """

    def __init__(self, model: PreTrainedModel, folder: str | os.PathLike):
        self._tower = _frozen_tower(model)
        fingerprint = host_fingerprint(host_checksums(self._tower.state_dict(), without=()))
        if fingerprint is None:
            raise ValueError(
                "The weights of the audio tower are quantised or offloaded, so they cannot be identified."
            )
        self.folder = Path(folder) / f"{type(self._tower).__name__}-{fingerprint}"
        self.found = self.computed = 0
        self._compute: Callable = self._tower.forward
        self._depth = 0

    def __enter__(self) -> AudioTowerCache:
        if not self._depth:
            self._own_forward = vars(self._tower).get("forward")
            self._compute = self._tower.forward
            self._tower.forward = self._forward
        self._depth += 1
        return self

    def __exit__(self, *exception) -> None:
        self._depth -= 1
        if not self._depth:
            if self._own_forward is None:
                del self._tower.forward
            else:
                self._tower.forward = self._own_forward

    @torch.no_grad()
    def _forward(self, input_features: Tensor, *args, **kwargs) -> BaseModelOutputWithPooling:
        """The tower's `forward` for rows of features, each (mel bins, frames) or in the host's shape."""
        if args or kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
            return self._compute(input_features, *args, **kwargs)
        rows = len(input_features)
        by_row = {
            name: value for name, value in kwargs.items() if isinstance(value, Tensor) and value.shape[:1] == (rows,)
        }
        masks = [_mask_of(by_row, row) for row in range(rows)]
        paths = [self.folder / f"{name}.safetensors" for name in _names(input_features, masks)]
        hidden = {row: found for row, path in enumerate(paths) if (found := _read(path)) is not None}
        left = [row for row in range(rows) if row not in hidden]
        self.found += rows - len(left)
        self.computed += len(left)
        if left:
            some = kwargs | {name: value[left] for name, value in by_row.items()}
            for row, computed in zip(left, self._run_tower(input_features[left], some)):
                hidden[row] = computed
                _write(paths[row], computed, _positions_read(masks[row], len(computed)))
        output = torch.stack([hidden[row].to(input_features.device) for row in range(rows)])
        return BaseModelOutputWithPooling(last_hidden_state=output.to(input_features.dtype))

    def _run_tower(self, input_features: Tensor, kwargs: dict) -> Tensor:
        """(rows, positions, size) in float16, computed in evaluation mode."""
        modes = {module: module.training for module in self._tower.modules()}
        self._tower.eval()
        try:
            hidden = self._compute(input_features, **kwargs)[0]
        finally:
            for module, was_training in modes.items():
                module.training = was_training
        rounded = hidden.to(DTYPE)
        if not bool(torch.isfinite(rounded).all()):
            raise ValueError("The audio tower's output is not finite in float16: train without cache_audio.")
        return rounded


def _frozen_tower(model: PreTrainedModel) -> nn.Module:
    name = getattr(type(model), "row_wise_tower", None)
    if name is None:
        raise ValueError(
            f"The audio tower of {type(model).__name__} cannot be cached, since its output for a turn depends on "
            "the rest of the batch: train without cache_audio."
        )
    tower = next(module for key, module in model.named_modules() if key.split(".")[-1] == name)
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise ValueError("The audio tower is trained, so its output changes: freeze it, or train without cache_audio.")
    if any(".base_layer." in key or ".original_module." in key for key in tower.state_dict()):
        raise ValueError("The audio tower has a PEFT adapter, which may be switched off: train without cache_audio.")
    return tower


def _mask_of(by_row: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """The tower's other inputs for a row; for attention masks, the line of the first position."""
    masks = {}
    for name, value in by_row.items():
        mask = value[row]
        while mask.dim() > 1:
            mask = mask[0]
        masks[name] = mask.cpu()
    return masks


def _names(input_features: Tensor, masks: list[dict[str, Tensor]]) -> list[str]:
    """A name for each row: a hash of all inputs of the tower for it."""
    names = []
    for row, features in enumerate(input_features.detach().cpu()):
        digest = hashlib.sha256()
        for name, tensor in ({"input_features": features} | masks[row]).items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        names.append(digest.hexdigest()[:32])
    return names


def _positions_read(masks: dict[str, Tensor], positions: int) -> int:
    """How many of a row's first positions the host may read: all, unless a mask marks the end of its audio."""
    ends = []
    for mask in masks.values():
        # Additive masks are 0 at valid positions.
        is_valid = mask == 0 if mask.is_floating_point() else mask != 0
        count = int(is_valid.sum())
        if bool(is_valid[:count].all()):
            ends.append(-(-count * positions // len(mask)) + 1)
    return min([*ends, positions])


def _read(path: Path) -> Tensor | None:
    """(positions, size), padded with zeros where the host does not read; None if the file is missing or broken."""
    try:
        with safe_open(path, "pt") as file:
            kept, positions = file.get_tensor(_HIDDEN), int(file.metadata()[_LENGTH])
    except (OSError, SafetensorError):
        return None
    return torch.cat([kept, kept.new_zeros(positions - len(kept), kept.shape[1])])


def _write(path: Path, hidden: Tensor, count: int) -> None:
    """Store a row's first positions; other processes see the complete file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        save_file({_HIDDEN: hidden[:count].cpu().contiguous()}, draft, {_LENGTH: str(len(hidden))})
