"""Turns of one length at a time, for hosts that mix the padding of a batch into shorter turns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import BatchFeature
from transformers.utils import ModelOutput

from .host_types import HostModel


class TowerByLength:
    """The `forward` of an audio tower that mixes padding: it runs the tower on rows of one length at a time.

    An object instead of a closure, so that a deep copy of the model gets its own, which runs the copy's tower.

    Args:
        tower: whose `forward` this becomes.
        run: from the tower, its own `forward`, and the arguments of a call, to the output; uses `run_by_length`.
    """

    def __init__(self, tower: nn.Module, run: Callable):
        self.tower, self.run = tower, run

    def __call__(self, *args, **kwargs):
        own = functools.partial(type(self.tower).forward, self.tower)
        # Compiled code cannot depend on values such as lengths.
        return own(*args, **kwargs) if torch.compiler.is_compiling() else self.run(self.tower, own, *args, **kwargs)


class TowerByLengthMixin(HostModel):
    """Lets the audio tower of a host run on turns of one length at a time, if it mixes padding into shorter turns.

    Attributes:
        tower_mixes_padding: whether the padding of a batch changes shorter turns, in the features or in the tower;
            features are then computed for turns of one length at a time.
        mixing_tower: the name of the tower if the tower mixes padding; it then runs by `run_mixing_tower`.
    """

    tower_mixes_padding: ClassVar[bool] = False
    mixing_tower: ClassVar[str | None] = None

    @staticmethod
    def run_mixing_tower(tower: nn.Module, forward: Callable, *args, **kwargs) -> Any:
        """The output of the tower, which `forward` gives for rows of one length (see `run_by_length`)."""
        raise NotImplementedError("A host with a mixing_tower defines run_mixing_tower.")

    def _find_mixing_tower(self) -> nn.Module | None:
        if self.mixing_tower is None:
            return None
        return next(module for name, module in self.named_modules() if f".{name}".endswith(f".{self.mixing_tower}"))

    def train(self, mode: bool = True):
        """As any module's; a frozen tower that mixes padding stays in evaluation mode.

        Its batch norm would depend on the batch and change, although it is frozen.
        """
        super().train(mode)
        tower = self._find_mixing_tower()
        if tower is not None and not any(parameter.requires_grad for parameter in tower.parameters()):
            tower.eval()
        return self

    def _run_tower_by_length(self) -> None:
        if (tower := self._find_mixing_tower()) is not None:
            tower.forward = TowerByLength(tower, self.run_mixing_tower)


def rows_by_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """The rows of each length."""
    rows: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows.setdefault(length, []).append(row)
    return rows


def run_by_length(run: Callable[[list[int], int], Any], lengths: Tensor) -> Any:
    """Run an audio tower on the rows of each length, and put its outputs together.

    Args:
        run: from rows and their length to the tower's output for them: a tensor (rows, positions, ...) or an output
            of such tensors.
        lengths: (rows,) the number of frames that are not padding.

    Returns:
        As `run`, for all rows: zero (True in masks) behind the end of a shorter row.
    """
    groups = rows_by_length(lengths.tolist())
    outputs = [run(rows, length) for length, rows in groups.items()]
    order = [row for rows in groups.values() for row in rows]
    if isinstance(outputs[0], Tensor):
        return _joined(outputs, order)
    names = [name for name, value in outputs[0].items() if isinstance(value, Tensor)]
    joined: ModelOutput = type(outputs[0])(
        **{name: _joined([output[name] for output in outputs], order) for name in names}
    )
    return joined


def process_by_length(
    process: Callable[..., BatchFeature], turns: Sequence, others: Sequence | None, pad: int
) -> BatchFeature:
    """Process turns of each length on their own, and put the tensors together.

    Args:
        process: from turns, (samples,) each, and what belongs to each of them, to the processor's tensors.
        others: one for each turn, or None.
        pad: id of the padding of `input_ids`, on the left.
    """
    groups = [*rows_by_length([len(turn) for turn in turns]).values()]
    if len(groups) == 1:
        return process(turns, others)
    parts = [process([turns[row] for row in rows], others and [others[row] for row in rows]) for rows in groups]
    order = [row for rows in groups for row in rows]
    joined = {}
    for name in parts[0]:
        tensors = [torch.as_tensor(part[name]) for part in parts]
        is_text = all(part[name].shape == part["input_ids"].shape for part in parts)
        joined[name] = _joined(tensors, order, value=pad if name == "input_ids" else 0, on_left=is_text)
    return BatchFeature(joined)


def _joined(tensors: Sequence[Tensor], order: Sequence[int], *, value: int | None = None, on_left=False) -> Tensor:
    """Tensors (rows, ...) padded to one shape and put into the order of rows that `order` numbers."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors))]
    value = (tensors[0].dtype == torch.bool) if value is None else value
    padded = []
    for tensor in tensors:
        room = [target - size for target, size in zip(shape, tensor.shape[1:])]
        padding = [side for more in reversed(room) for side in ((more, 0) if on_left else (0, more))]
        padded.append(nn.functional.pad(tensor, padding, value=value))
    joined = torch.cat(padded)
    return joined[torch.argsort(torch.tensor(order)).to(joined.device)]
