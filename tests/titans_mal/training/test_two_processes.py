"""What two processes do together over gloo."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version


ROOT = Path(__file__).parents[3]


def in_two_processes(script: str, *arguments) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name(script)), *map(str, arguments)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("memory_is", ["sharded", "in the root"])
def test_a_sharded_step_is_that_of_a_whole_model(memory_is):
    """FSDP2 by torch's own `fully_shard`: accelerate refuses it on a CPU."""
    if memory_is == "sharded" and Version(torch.__version__) < Version("2.13"):
        pytest.skip("torch 2.11 frees the parameters of a sharded memory before its backward pass")
    assert f"gradients of a memory {memory_is} are those of one process" in in_two_processes(
        "sharded_step.py", memory_is
    )


@pytest.mark.slow
@pytest.mark.parametrize("micro_step", [3, 4])
def test_a_step_that_is_not_finite_in_one_process_is_skipped_in_both(talks_folder, tmp_path, micro_step):
    """The first or the last of the second step's two, of which only the last shares gradients."""
    printed = in_two_processes("two_process_training.py", talks_folder, tmp_path / "out", "nan", micro_step)
    assert "skipped 1, stopped at 3 by None" in printed
    assert "the weights of both processes are the same" in printed


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(talks_folder, tmp_path):
    printed = in_two_processes("two_process_training.py", talks_folder, tmp_path / "out", "signal", 3)
    assert f"stopped at 2 by {signal.SIGTERM.value}" in printed
    assert f"to go on from {tmp_path / 'out' / 'checkpoint-2'};" in printed
