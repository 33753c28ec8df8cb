"""Leaving the other processes."""

import subprocess
import sys

import pytest
import torch

from titans_mal.processes import end_processes


SCRIPT = """
import sys, torch, weakref
from titans_mal.processes import end_processes

torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
model.itself = [model]  # a cycle, as wrapped models have
left = weakref.ref(model)
del model
destroy = torch.distributed.destroy_process_group
torch.distributed.destroy_process_group = lambda: (print("model gone first:", left() is None), destroy())
end_processes()
print("still a group:", torch.distributed.is_initialized())
"""


def test_the_group_ends_after_the_models_that_hold_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "store"], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["model gone first: True", "still a group: False"], done.stderr


def test_a_single_process_has_no_group_to_leave(monkeypatch):
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: pytest.fail("there is no group to end"))
    end_processes()
    assert not torch.distributed.is_initialized()
