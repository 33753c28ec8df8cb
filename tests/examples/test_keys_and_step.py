"""The cost of keys and step: every memory of the table runs, and its state has the size of a real one."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from titans_mal import TitansMemoryConfig


FOLDER = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "measuring", raising=False)
    spec = importlib.util.spec_from_file_location("keys_and_step", FOLDER / "keys_and_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HIDDEN_SIZE", 16)
    return module


def test_all_memories_are_timed_and_the_default_is_one_of_them(benchmark, tmp_path, capsys):
    benchmark.main(repeats=1, rows=2, tokens=8, output=tmp_path)
    rows = json.loads((tmp_path / "keys_and_step.json").read_text())["rows"]
    printed = capsys.readouterr().out
    assert [row["memory"] for row in rows] == list(benchmark.MEMORIES)
    assert all(row["memory"] in printed and row["forward, ms"] > 0 for row in rows)
    config = TitansMemoryConfig(**next(m for name, m in benchmark.MEMORIES.items() if "default" in name))
    assert config.to_dict() == TitansMemoryConfig().to_dict()
    sizes = {row["memory"]: row["state of a layer, kB"] for row in rows}
    # Weights and momentum, 4 heads, 136 monomials of 16 numbers, float32.
    assert sizes["heads of 16, quadratic keys, Gram matrix (default)"] == pytest.approx(2 * 4 * 136 * 16 * 4 / 1e3)
