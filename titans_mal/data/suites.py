"""Deprecated place of `titans_mal.data.synthetic.suites`."""

from warnings import warn

from .synthetic.suites import *  # noqa: F403


warn(
    "titans_mal.data.suites is now titans_mal.data.synthetic.suites; the old name goes with the next version.",
    DeprecationWarning,
    stacklevel=2,
)
