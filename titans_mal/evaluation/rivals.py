"""Deprecated name of `titans_mal.evaluation.baselines`."""

from ..deprecation import warn_renamed
from .baselines import *  # noqa: F403


warn_renamed("titans_mal.evaluation.rivals", "titans_mal.evaluation.baselines")
