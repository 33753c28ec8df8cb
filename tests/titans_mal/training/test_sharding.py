"""FSDP2 over gloo, by torch's own `fully_shard`: accelerate refuses it on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("memory_is", ["sharded", "in the root"])
def test_a_sharded_step_is_that_of_a_whole_model(memory_is):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("sharded_step.py")), memory_is]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"gradients of a memory {memory_is} are those of one process" in done.stdout
