"""Connects models with publishing: `push_to_hub` of a model publishes it with its card."""

from __future__ import annotations

import warnings

from . import auto as auto  # registers the hosts
from .modeling.checkpoint_saving import CheckpointSavingMixin
from .modeling.host_lora import peft_problem


def _publish(model, repo_id: str, **kwargs) -> str | None:
    from .publishing import publish_model

    return publish_model(model, repo_id, **kwargs)


CheckpointSavingMixin.publisher = staticmethod(_publish)

_problem = peft_problem()
if _problem is not None:
    warnings.warn(_problem, UserWarning, stacklevel=2)
