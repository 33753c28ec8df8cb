"""Additional conditions for a model with a LoRA: with the LoRA off, to separate its effect from the memory's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .conditions import CONDITIONS, memory
from .table_scoring import Group, TableScorer, TableScores


def host(scorer: TableScorer, group: Group) -> TableScores:
    """The host without LoRA and memory."""
    with _without_lora(scorer.model), scorer.model.disable_memory():
        return scorer.score(group.turns, None)


def host_memory(scorer: TableScorer, group: Group) -> TableScores:
    """The host with the memory but without the LoRA, although both were trained together."""
    with _without_lora(scorer.model):
        return memory(scorer, group)


LORA_CONDITIONS: dict[str, Callable[[TableScorer, Group], TableScores]] = {
    function.__name__: function for function in (host, host_memory)
}
ALL_CONDITIONS = CONDITIONS | LORA_CONDITIONS


@contextlib.contextmanager
def _without_lora(model) -> Iterator[None]:
    """Within this context, only the PEFT adapters of the base are active; `requires_grad` is not changed."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    added = {*model.added_adapters}
    before = []
    for module in model.modules():
        # Set the fields directly, since PEFT's own methods would change requires_grad.
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            before.append((module, module._active_adapter))
            active = [module._active_adapter] if isinstance(module._active_adapter, str) else module._active_adapter
            module._active_adapter = [name for name in active if name not in added]
    try:
        yield
    finally:
        for module, active in before:
            module._active_adapter = active
