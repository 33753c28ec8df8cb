"""The modules of the example on human voices, which import each other by name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


FOLDER = Path(__file__).parents[2] / "examples" / "real_voices"
MODULES = (
    "voices",
    "voices_reader",
    "dialogues",
    "encoder_features",
    "models",
    "networks",
    "options_file",
    "scored_dialogues",
    "intervals",
    "compose",
    "corpus",
    "study",
    "feature_report",
    "features",
    "host_folds",
    "host_parts",
    "host",
)


@pytest.fixture(scope="module")
def real():
    """The modules of the example, by name; their folder is on the path for as long."""
    own = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(own)
