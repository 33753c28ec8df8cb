"""Makes `push_to_hub` of a model publish it with its card: the one module that knows both models and publishing."""

from __future__ import annotations

from . import auto as auto  # which registers the hosts
from .modeling.checkpoint_saving import CheckpointSavingMixin


def _publish(model, repo_id: str, **kwargs) -> str:
    from .publishing import publish_model

    return publish_model(model, repo_id, **kwargs)


CheckpointSavingMixin.publisher = staticmethod(_publish)
