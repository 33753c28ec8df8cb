"""Deprecated place of `titans_mal.data.synthetic.bayes_bound`."""

from warnings import warn

from .synthetic.bayes_bound import *  # noqa: F403


warn(
    "titans_mal.data.bayes_bound is now titans_mal.data.synthetic.bayes_bound; the old name goes with the next "
    "version.",
    DeprecationWarning,
    stacklevel=2,
)
