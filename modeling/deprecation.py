"""Warnings for names of earlier versions, which are kept for one version."""

from __future__ import annotations

import warnings


def warn_renamed(old: str, new: str) -> None:
    """Warn that `old` was renamed; called by a module at import, or by its `__getattr__`."""
    warnings.warn(
        f"{old} is now {new}; the old name will be removed in the next version.", DeprecationWarning, stacklevel=3
    )
