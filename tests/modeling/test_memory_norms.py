import pytest
import torch
from torch.nn import functional as F

from titans_mal.modeling.memory_norms import l2_normalize, rms_normalize


NORMS = {
    l2_normalize: lambda x: F.normalize(x, dim=-1),
    rms_normalize: lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6),
}


@pytest.mark.parametrize("norm", NORMS)
def test_equals_torch(norm):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8)
    x[0] = 0
    assert torch.equal(norm(x), NORMS[norm](x))
    gradients = []
    for function in (norm, NORMS[norm]):
        leaf = x.double().requires_grad_()
        function(leaf).sin().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_only_the_value_is_kept(norm):
    x, kept = torch.randn(3, 64, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        value = norm(x)
    assert sum(tensor.numel() for tensor in kept) == value.numel() + 3
