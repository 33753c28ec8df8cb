"""Deprecated name of `titans_mal.evaluation.baselines`."""

from ..modeling.deprecation import warn_renamed
from .baselines import *  # noqa: F403


warn_renamed("titans_mal.evaluation.rivals", "titans_mal.evaluation.baselines")
