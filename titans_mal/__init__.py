"""Conversational memory for audio language models."""

from pathlib import Path

from ._version import __version__


# In a clone, Python started at its root finds this folder before the installed package, and `modeling/` beside it
# instead of inside it.
_CLONE = Path(__file__).resolve().parent.parent
if (_CLONE / "modeling" / "neural_memory.py").is_file() and not (Path(__file__).parent / "modeling").is_dir():
    __path__.append(str(_CLONE))

__all__ = ["__version__"]
