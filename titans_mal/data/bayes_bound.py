"""Deprecated name of `titans_mal.data.synthetic.bayes_bound`."""

from ..modeling.deprecation import warn_renamed
from .synthetic.bayes_bound import *  # noqa: F403


warn_renamed("titans_mal.data.bayes_bound", "titans_mal.data.synthetic.bayes_bound")
