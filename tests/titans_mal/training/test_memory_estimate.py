"""The dry run against what autograd really saves."""

import runpy
from pathlib import Path

import pytest
import torch
from tiny_hosts import HOSTS
from tiny_models import tiny_model

from titans_mal.training import choose_trained_parts, trained_parameters
from titans_mal.training import memory_estimate as module
from titans_mal.training.memory_estimate import (
    MemoryEstimate,
    NotEstimatedError,
    StepShape,
    estimate_training_memory,
    on_meta,
)


SHAPE = StepShape(lanes=2, window=3, positions=30, audio_tokens=12)


def model_with_lora():
    model = tiny_model()
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    return model


def test_a_twin_on_meta_has_the_models_parts_and_dtypes():
    model = model_with_lora().to(torch.bfloat16)
    twin = on_meta(model)
    assert all(parameter.is_meta for parameter in twin.parameters())
    assert trained_parameters(twin) == trained_parameters(model)
    reported = [{n: (p.shape, p.dtype) for n, p in m.named_parameters()} for m in (model, twin)]
    assert reported[0] == reported[1]


def test_it_is_what_autograd_saves(monkeypatch):
    """The same step with real numbers on the CPU saves the same bytes, and never more where attention may be fused."""
    model = model_with_lora().train()
    fused = estimate_training_memory(on_meta(model), SHAPE)
    with monkeypatch.context() as patch:
        patch.setattr(module, "DEVICE", "cpu")
        # Equal on processors for which torch has no fused kernel.
        assert 0.7 * fused.activations < estimate_training_memory(model, SHAPE).activations <= fused.activations
    model.set_attn_implementation("eager")
    on_paper = estimate_training_memory(on_meta(model), SHAPE)
    monkeypatch.setattr(module, "DEVICE", "cpu")
    assert estimate_training_memory(model, SHAPE) == on_paper


def test_weights_gradients_and_moments():
    model = on_meta(model_with_lora())
    estimate = estimate_training_memory(model, SHAPE)
    trained = sum(count for part, count in trained_parameters(model).items() if part != "frozen")
    assert estimate.weights == 4 * sum(trained_parameters(model).values())
    assert (estimate.gradients, estimate.optimizer) == (4 * trained, 8 * trained)
    assert estimate.total == sum(vars(estimate).values())
    assert str(MemoryEstimate(2**30, 0, 0, 0, 2**29)).endswith("total 1.50 GiB")


def test_checkpointing_keeps_one_block_at_a_time():
    model = on_meta(model_with_lora())
    plain, checkpointed = (estimate_training_memory(model, SHAPE, gradient_checkpointing=on) for on in (False, True))
    assert checkpointed.activations < 0.6 * plain.activations
    assert checkpointed.memory == plain.memory


def test_longer_windows_need_more():
    model = on_meta(model_with_lora())
    sizes = [estimate_training_memory(model, StepShape(2, window, 30, 12)).memory for window in (2, 4, 8)]
    assert sizes == sorted(sizes)
    assert sizes[2] > 3 * sizes[0]


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_whose_blocks_run_on_meta(host):
    model = HOSTS[host].model()
    with HOSTS[host].patches():
        if host in ("Qwen3OmniMoe", "Gemma4"):
            with pytest.raises(NotEstimatedError, match="does not run on the meta device"):
                estimate_training_memory(on_meta(model), SHAPE)
            return
        assert estimate_training_memory(on_meta(model), SHAPE, gradient_checkpointing=True).activations > 0


def test_a_host_of_seven_billion_fits_into_24_gb():
    """The recipe of examples/finetune: Qwen2-Audio in bfloat16, rank 16, windows of 8 turns of 30 s."""
    script = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "finetune" / "estimate_memory.py"))
    model = script["qwen2_audio_on_meta"]()
    assert 8.3e9 < sum(trained_parameters(model).values()) < 8.6e9
    estimate = estimate_training_memory(model, script["shape_of"](30), gradient_checkpointing=True)
    assert 20 < estimate.total / 2**30 < 23
