"""The check for machines with a GPU, on the CPU: its parts are listed, and those that need none run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import typer


FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def gpu_check():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("gpu_check")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("gpu_check", "measuring", "random_host"):
            sys.modules.pop(name, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which all parts would run")
def test_without_a_gpu_the_parts_are_listed_and_some_run(gpu_check, tmp_path):
    gpu_check.main(output=tmp_path)
    rows = {row["part"]: row for row in json.loads((tmp_path / "gpu_check.json").read_text())["rows"]}
    assert list(rows) == list(gpu_check.PARTS)
    assert rows["bf16 autocast"]["result"]["largest difference of logits"] < 1
    assert rows["static cache"]["result"] == {"same tokens": True}
    left_out = [name for name, row in rows.items() if row["seconds"] is None]
    assert len(left_out) == len(rows) - 2
    assert all(str(rows[name]["result"]).startswith("not run: needs ") for name in left_out)
    assert (tmp_path / "gpu_check.md").read_text().count("not run") == len(left_out)


def test_a_part_that_fails_is_reported_and_the_others_run(gpu_check, tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("no luck")

    parts = {
        "one": gpu_check.Part("this", fail, needs_gpu=False),
        "two": gpu_check.Part("that", dict, needs_gpu=False),
    }
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    with pytest.raises(typer.Exit):
        gpu_check.main(output=tmp_path)
    first, second = json.loads((tmp_path / "gpu_check.json").read_text())["rows"]
    assert first["result"] == "failed: RuntimeError: no luck"
    assert second["result"] == {}


def test_parts_that_there_are_not_are_named(gpu_check, tmp_path):
    with pytest.raises(typer.BadParameter, match=r"--part must be one of .* got \['soak'\]"):
        gpu_check.main(parts=["soak"], output=tmp_path)


@pytest.mark.slow
def test_parts_for_a_gpu_run_on_the_cpu_with_a_tiny_model(gpu_check, monkeypatch):
    """What they would find is meaningless here, but they must get there."""
    build, zeros = gpu_check.build, torch.zeros
    monkeypatch.setattr(gpu_check, "build", lambda size, **options: build("tiny", **(options | {"device": "cpu"})))
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **options: zeros(*size, **options))
    for name, value in {
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 2**30,
        "synchronize": None,
        "set_sync_debug_mode": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *given, value=value: value)
    assert gpu_check.training_memory() == {"peak, GiB": 1.0}
    assert gpu_check.synchronisations() == {"with memory": 0, "host alone": 0}
    assert gpu_check.device_map()["largest difference of logits"] < 1e-4
