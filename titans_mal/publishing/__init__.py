"""Publish a model on the Hub: its card, endpoint handler and Space, uploaded in one commit."""

from .publish import Publication, publish_folder, publish_model
from .space import publish_space, write_space


__all__ = ["Publication", "publish_folder", "publish_model", "publish_space", "write_space"]
