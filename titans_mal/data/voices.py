"""Deprecated place of `titans_mal.data.synthetic.voices`."""

from warnings import warn

from .synthetic.voices import *  # noqa: F403


warn(
    "titans_mal.data.voices is now titans_mal.data.synthetic.voices; the old name goes with the next version.",
    DeprecationWarning,
    stacklevel=2,
)
