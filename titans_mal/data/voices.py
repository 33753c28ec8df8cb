"""Deprecated name of `titans_mal.data.synthetic.voices`."""

from ..modeling.deprecation import warn_renamed
from .synthetic.voices import *  # noqa: F403


warn_renamed("titans_mal.data.voices", "titans_mal.data.synthetic.voices")
