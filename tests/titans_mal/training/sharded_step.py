"""Run by two processes: a step of a sharded model against the same step of a whole one."""

import sys

import torch
import torch.distributed as dist
from tiny_models import tiny_model, tiny_turns
from torch.distributed.fsdp import fully_shard

from titans_mal.processes import end_processes
from titans_mal.training import choose_trained_parts


def gradients(model, turns: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(
        **turns, conversation_ids=[0, 0, 0, 1, 1], emotion_labels=torch.tensor([0, 1, 2, 3, -1]), logits_to_keep=1
    ).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def main(memory_is: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, expected = tiny_model().train(), tiny_model().train()
    for each in (model, expected):
        choose_trained_parts(each)
    for block in model.get_decoder().layers:
        fully_shard(block)
    if memory_is == "sharded":
        for layer in model.titans_memory.layers:
            fully_shard(layer)
    fully_shard(model)
    held = sum(parameter.to_local().numel() for parameter in model.parameters())
    total = sum(parameter.numel() for parameter in expected.parameters())
    assert held < 0.55 * total, (held, total)
    # Each process has its own turns.
    losses, of_processes = [], []
    for process in range(2):
        expected.zero_grad()
        loss, found = gradients(expected, tiny_turns(5, seed=process))
        losses.append(loss)
        of_processes.append({name: gradient.clone() for name, gradient in found.items()})
    loss, found = gradients(model, tiny_turns(5, seed=rank))
    torch.testing.assert_close(loss, losses[rank])
    assert found.keys() == of_processes[0].keys()
    for name, gradient in found.items():
        mean = (of_processes[0][name] + of_processes[1][name]) / 2
        torch.testing.assert_close(whole(gradient), mean, rtol=1e-4, atol=1e-6, msg=name)
    if rank == 0:
        print(f"{len(found)} gradients of a memory {memory_is} are those of one process")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
    end_processes()
