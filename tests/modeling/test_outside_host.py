"""A host that is added from outside of the package, by the very code that CONTRIBUTING shows."""

import re
import sys
import types
from pathlib import Path

import pytest
from common_host_tester import CommonHostTester
from tiny_hosts import TinyHost, granite_audio, granite_speech


CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def granite_speech_plus() -> dict:
    fields = granite_speech()
    return fields | {"encoder_config": fields["encoder_config"] | {"model_type": "granite_speech_plus_encoder"}}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The module that a user would write."""
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), flags=re.DOTALL)
    assert len(code.splitlines()) < 60
    file = tmp_path_factory.mktemp("outside") / "outside_host.py"
    file.write_text(code)
    module = types.ModuleType("outside_host")
    module.__file__ = str(file)
    sys.modules["outside_host"] = module
    exec(compile(code, file, "exec"), module.__dict__)
    return module


class TestAHostFromOutside(CommonHostTester):
    @pytest.fixture
    def host(self, outside):
        return TinyHost("GraniteSpeechPlus", granite_speech_plus, granite_audio, home=outside)
