"""A model on the Hub: its card, its endpoint handler, its Space, and the one commit that uploads them."""

from .publish import Publication, publish_folder, publish_model
from .space import publish_space, write_space


__all__ = ["Publication", "publish_folder", "publish_model", "publish_space", "write_space"]
