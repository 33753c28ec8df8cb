"""The queue that live calls are compared with, against latencies counted by hand."""

import importlib.util
from pathlib import Path

import pytest


PATH = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "queue_simulation.py"


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("queue_simulation", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.simulate


def test_what_comes_while_a_batch_goes_is_the_next_batch(simulate):
    arrivals = [(0.0, "a"), (0.1, "b"), (0.2, "c"), (9.0, "d")]
    assert simulate(arrivals, {1: 1.0, 2: 1.5}, 16) == pytest.approx([1.0, 2.4, 2.3, 1.0])
    # One at a time; sizes between those that were measured are interpolated.
    assert simulate(arrivals, {1: 1.0, 2: 1.5}, 1) == pytest.approx([1.0, 1.9, 2.8, 1.0])
    assert simulate(arrivals, {1: 1.0, 3: 2.0}, 16)[1:3] == pytest.approx([2.4, 2.3])


def test_turns_of_a_call_go_one_after_the_other(simulate):
    assert simulate([(0.0, "a"), (0.1, "a"), (0.2, "a")], {1: 1.0}, 16) == pytest.approx([1.0, 1.9, 2.8])
    assert simulate([(0.0, "a")], {1: 1.0}, 16, before=0.5) == pytest.approx([1.5])
