"""PEFT on the host: what is said where its version does not fit transformers'."""

import importlib
import re
import warnings

import pytest
from tiny_models import tiny_model

import titans_mal.hub
from titans_mal.modeling import host_lora


@pytest.fixture
def old_peft(monkeypatch):
    """A transformers that demands a PEFT that is not out."""
    monkeypatch.setattr(host_lora, "MIN_PEFT_VERSION", "99.0")


PROBLEM = r"needs PEFT 99\.0 or newer for any LoRA, and [\d.]+ is installed: pip install"


def test_a_lora_names_both_versions_and_the_commands(old_peft):
    from peft import LoraConfig

    model = tiny_model()
    before = {*model.state_dict()}
    with pytest.raises(ImportError, match=PROBLEM):
        model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    assert {*model.state_dict()} == before


def test_the_first_import_warns(old_peft):
    with pytest.warns(UserWarning, match=PROBLEM):
        importlib.reload(titans_mal.hub)


def test_versions_that_fit_are_not_spoken_of():
    problem = host_lora.peft_problem()
    assert problem is None or re.search("needs PEFT", problem)
    if problem is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            importlib.reload(titans_mal.hub)
