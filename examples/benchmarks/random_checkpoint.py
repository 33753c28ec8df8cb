"""A host checkpoint of random bf16 weights, written shard by shard so that it is never in memory as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


SHARD_BYTES = 1 << 30


def write_checkpoint(host_class, config, folder: Path) -> int:
    """Random bf16 weights of a configuration, a shard at a time; returns their bytes.

    Raises:
        RuntimeError: if disk or memory do not suffice.
    """
    tensors = shapes_of(host_class, config)
    total = 2 * sum(tensor.numel() for tensor in tensors.values())
    check_resources(total, folder)
    generator, shard, held, files = torch.Generator().manual_seed(0), {}, 0, []
    for name, tensor in tensors.items():
        shard[name] = random_weight(name, tensor, generator)
        held += shard[name].nbytes
        if held >= SHARD_BYTES:
            files.append((shard, _write_shard(shard, folder, len(files))))
            shard, held = {}, 0
    if shard:
        files.append((shard, _write_shard(shard, folder, len(files))))
    names = {name: file for part, file in files for name in part}
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.architectures = [host_class.__name__]
    config.save_pretrained(folder)
    return total


def shapes_of(host_class, config) -> dict[str, Tensor]:
    """The weights of a host by name, without values."""
    with torch.device("meta"):
        model = host_class(config)
    model.tie_weights()
    saved = model.state_dict()
    of_norms = {
        key: saved[key] for key in saved if key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    return {**dict(model.named_parameters()), **of_norms}


def random_weight(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random weights in bf16: norms are 1, biases 0, and matrices small noise; counters are 0."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.dim() <= 1:
        value = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
        return torch.full(tensor.shape, value, dtype=torch.bfloat16)
    return torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)


def _write_shard(shard: dict[str, Tensor], folder: Path, number: int) -> str:
    name = f"model-{number + 1:05d}.safetensors"
    save_file(shard, folder / name, metadata={"format": "pt"})
    for key in shard:
        shard[key] = torch.empty(0)  # written: only the name is still needed
    return name


def needs_of(weights: int) -> dict[str, int]:
    """The bytes of disk and memory that weights of so many bytes take."""
    return {"disk": weights + (1 << 30), "memory": weights * 5 // 4 + (1 << 30)}


def check_resources(weights: int, folder: Path) -> None:
    """Raise a RuntimeError if disk or memory do not suffice for weights of so many bytes."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    free_bytes = {"disk": shutil.disk_usage(folder).free, "memory": available}
    for name, needed in needs_of(weights).items():
        free = free_bytes[name]
        if needed > free:
            raise RuntimeError(f"{needed / 2**30:.1f} GiB of {name} are needed, and {free / 2**30:.1f} are free.")
