"""Deprecated name of `titans_mal.data.synthetic.suites`."""

from ..modeling.deprecation import warn_renamed
from .synthetic.suites import *  # noqa: F403


warn_renamed("titans_mal.data.suites", "titans_mal.data.synthetic.suites")
