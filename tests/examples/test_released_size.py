"""The benchmark of released sizes, on tiny configurations."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_hosts import HOSTS
from tiny_models import host_config
from transformers import Qwen2AudioConfig


FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def released_size():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("released_size")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("released_size", "released_hosts", "random_checkpoint", "measuring"):
            sys.modules.pop(name, None)


def test_a_host_is_written_by_shards_loaded_and_measured(released_size, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["random_checkpoint"], "SHARD_BYTES", 20_000)
    config = host_config()
    config["text_config"] |= {"vocab_size": 100}
    Qwen2AudioConfig(**config).save_pretrained(tmp_path / "config")
    released_size.main(
        host="Qwen2Audio", config=str(tmp_path / "config"), seconds=0.5, repeats=3, folder=tmp_path / "weights",
        output=tmp_path,
    )  # fmt: skip
    (row,) = json.loads((tmp_path / "released_size_Qwen2Audio.json").read_text())["rows"]
    assert len([*(tmp_path / "weights").glob("model-*.safetensors")]) > 2
    assert row["reload bit-equal"] == "yes"
    assert row["in bf16, MB"] < 0.8 * row["adapter, MB"]
    assert 0 < row["logits in bf16 differ by"] < 0.1


@pytest.mark.parametrize("name", ["Qwen2_5Omni", "Qwen3ASR", "Gemma3n", "GlmAsr", "Voxtral", "GraniteSpeech"])
@torch.no_grad()
def test_turns_are_what_the_hosts_take(released_size, name):
    model = HOSTS[name].model()
    seconds = 0.6 if name != "Qwen3ASR" else 1.0
    assert model(**released_size.turn_of(model, name, seconds)).emotion_logits.isfinite().all()


@pytest.mark.parametrize("name", ["Voxtral", "Qwen2_5Omni"])
@torch.no_grad()
def test_words_of_a_turn_are_no_placeholders(released_size, name, monkeypatch):
    """Some hosts have a placeholder among the first numbers, as Voxtral's 24."""
    model = HOSTS[name].model()
    monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.full(size, model.audio_token_id))
    ids = released_size.turn_of(model, name, 0.6)["input_ids"]
    assert int((ids == model.audio_token_id).sum()) == sys.modules["released_hosts"].TURNS[name](model.config, 0.6)[1]


def test_a_checkpoint_holds_the_counters_of_norms(released_size, tmp_path):
    """Loading a host refuses a checkpoint that lacks any of its tensors."""
    plain = HOSTS["GraniteSpeech"].plain()
    with HOSTS["GraniteSpeech"].patches():
        sys.modules["random_checkpoint"].write_checkpoint(type(plain), plain.config, tmp_path)
    written = set(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"])
    assert any(name.endswith("num_batches_tracked") for name in written)
    assert {name for name, _ in plain.named_buffers() if name in plain.state_dict()} <= written


@pytest.mark.parametrize("name", ["Qwen3-ASR-1.7B", "Qwen2.5-Omni-3B"])
def test_towers_of_releases_are_as_wide_as_their_text(released_size, name):
    config = sys.modules["released_hosts"].configuration("", "", name)[1]
    assert config.audio_config.output_dim == config.get_text_config(decoder=True).hidden_size


def test_what_does_not_fit_is_reported_before_it_is_written(released_size, tmp_path):
    with pytest.raises(RuntimeError, match="GiB of disk are needed"):
        sys.modules["random_checkpoint"].check_resources(10**18, tmp_path)


def test_an_interval_that_holds_one_is_noise(released_size):
    assert released_size.overhead([0.98, 1.0, 1.03, 0.99, 1.02]).startswith("within the noise of")
    assert released_size.overhead([1.04, 1.05, 1.06, 1.05, 1.05]).startswith("+5.0 % (+4.")
