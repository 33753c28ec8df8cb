"""The conditions that a LoRA on the host brings: with it switched off, to tell its effect from the memory's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .conditions import CONDITIONS, memory
from .table_scoring import Group, TableScorer, TableScores


def host(scorer: TableScorer, group: Group) -> TableScores:
    """The host alone, without LoRA and memory: every turn by itself."""
    with _without_lora(scorer.model), scorer.model.disable_memory():
        return scorer.score(group.turns, None)


def host_memory(scorer: TableScorer, group: Group) -> TableScores:
    """The host with the memory, which was trained beside the LoRA, and without that."""
    with _without_lora(scorer.model):
        return memory(scorer, group)


LORA_CONDITIONS: dict[str, Callable[[TableScorer, Group], TableScores]] = {
    function.__name__: function for function in (host, host_memory)
}
ALL_CONDITIONS = CONDITIONS | LORA_CONDITIONS


@contextlib.contextmanager
def _without_lora(model) -> Iterator[None]:
    """Within it, of PEFT's adapters only those are active that the host came with; what trains is left as it is."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    added = {*model.added_adapters}
    before = []
    for module in model.modules():
        # Through their fields: PEFT's own methods would change what requires a gradient.
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            before.append((module, module._active_adapter))
            active = [module._active_adapter] if isinstance(module._active_adapter, str) else module._active_adapter
            module._active_adapter = [name for name in active if name not in added]
    try:
        yield
    finally:
        for module, active in before:
            module._active_adapter = active
