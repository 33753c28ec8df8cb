"""What a streamed turn of the shipped checkpoint goes through."""

from __future__ import annotations

import importlib.util
from pathlib import Path


SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "small_turn.py"


def test_a_streamed_turn_makes_few_calls():
    spec = importlib.util.spec_from_file_location("small_turn", SCRIPT)
    small_turn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(small_turn)
    calls = small_turn.count_calls(small_turn.make_arms()["memory"])
    assert 0 < sum(calls.values()) <= 350, calls
    assert "neural_memory.py" in calls
    host, memory = (small_turn.count_operations(small_turn.make_arms()[name]) for name in ("host", "memory"))
    assert 0 < host < memory
