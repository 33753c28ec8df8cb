"""The norms by hand against torch's, and what they keep for the backward pass."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from titans_mal.modeling.memory_norms import RMSNorm, l2_normalize, rms_normalize


WIDTH = 8
NORMS = {
    "l2": (l2_normalize, lambda tensor: F.normalize(tensor, dim=-1)),
    "rms": (rms_normalize, lambda tensor: F.rms_norm(tensor, (WIDTH,), eps=1e-6)),
}


def make_tensor(*, is_transposed=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(2, 5, 3, WIDTH, generator=generator, dtype=dtype) * torch.logspace(-2, 2, 5)[:, None, None]
    return (tensor.to(dtype).transpose(1, 2) if is_transposed else tensor.to(dtype)).requires_grad_()


def make_module(eps=1e-6, dtype=torch.float64):
    modules = [kind(WIDTH, eps=eps).to(dtype) for kind in (RMSNorm, nn.RMSNorm)]
    for module in modules:
        nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    return modules


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("name", [*NORMS, "module"])
def test_equals_torch(name, is_transposed):
    functions = make_module() if name == "module" else NORMS[name]
    tensor = make_tensor(is_transposed=is_transposed)
    results = []
    for function in functions:
        output = function(tensor)
        wanted = [tensor, *getattr(function, "parameters", list)()]
        results.append((output, *torch.autograd.grad((output.sin() * output).sum(), wanted)))
        with torch.no_grad():
            torch.testing.assert_close(function(tensor), output, rtol=1e-12, atol=1e-12)
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    assert results[0][0].is_contiguous()


@pytest.mark.parametrize("name", NORMS)
def test_zeros_stay_zero_and_have_a_finite_gradient(name):
    tensor = torch.zeros(2, WIDTH, requires_grad=True)
    output = NORMS[name][0](tensor)
    output.sum().backward()
    assert not output.any()
    assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("name", [*NORMS, "module"])
def test_one_tensor_is_kept(name):
    """What is given, or with scales what goes in."""
    tensor, kept = make_tensor(), []
    norm = make_module()[0] if name == "module" else NORMS[name][0]
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        output = norm(tensor)
    expected = tensor if name == "module" else output
    assert {saved.data_ptr() for saved in kept if saved.numel() == tensor.numel()} == {expected.data_ptr()}


@pytest.mark.parametrize("name", [*NORMS, "module"])
def test_a_second_differentiation_is_refused(name):
    tensor, norm = make_tensor(), make_module()[0] if name == "module" else NORMS[name][0]
    (gradient,) = torch.autograd.grad(norm(tensor).square().sum(), tensor, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_an_input_without_gradient_gets_none():
    module, _ = make_module()
    module(make_tensor().detach()).sum().backward()
    assert module.weight.grad is not None
