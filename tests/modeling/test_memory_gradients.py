"""The gradients by hand against autograd's of the same chunk and norm, and what is kept for them."""

import pytest
import torch
from memory_oracle import HEADS, STREAMS, make_state, make_tokens
from torch import nn
from torch.nn import functional as F

from titans_mal.modeling import neural_memory
from titans_mal.modeling.memory_chunks import MemoryChunk, curvature_bounds, read_chunk, write_chunk
from titans_mal.modeling.memory_gradients import (
    l2_normalize,
    quadratic_features,
    read_chunk_by_hand,
    rms_normalize,
    write_chunk_by_hand,
)
from titans_mal.modeling.memory_state import NeuralMemoryState
from titans_mal.modeling.titans_memory_layer import RMSNorm


TOKENS, WIDTH = 5, 8
LENGTH = 1 + MemoryChunk._fields.index("length")  # its place in `make_arguments`; it has no gradient
PLAIN, BY_HAND = (read_chunk, write_chunk), (read_chunk_by_hand, write_chunk_by_hand)
NORMS = {
    "l2": (l2_normalize, lambda tensor: F.normalize(tensor, dim=-1)),
    "rms": (rms_normalize, lambda tensor: F.rms_norm(tensor, (WIDTH,), eps=1e-6)),
}


def make_arguments(depth, *, is_transposed=False):
    """Queries, a chunk, weights and momentum in one list, all of which need a gradient."""
    state, (queries, keys, values, _) = make_state(depth), make_tokens(TOKENS)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(STREAMS, HEADS, *shape, generator=generator, dtype=torch.float64)

    factors = draw(TOKENS, 1), draw(TOKENS, 1), draw(1, 1), draw(1, 1), draw(1, 1), draw(1, 1)
    tensors = [queries, keys, values, *factors, *state.tensors]
    if is_transposed:  # as a layer's heads are
        tensors = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    return [tensor.requires_grad_() for tensor in tensors]


def run(functions, step_bound, tensors):
    queries, *tensors = tensors
    count = len(MemoryChunk._fields)
    chunk, state = MemoryChunk(*tensors[:count]), NeuralMemoryState.from_tensors(tensors[count:])
    read, write = functions
    _, after = write(state, chunk, step_bound)
    return read(state.weights, queries), *after.tensors


@pytest.mark.parametrize("used", [slice(None), slice(1), slice(1, None), slice(1, 2), slice(-1, None)])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("step_bound", [None, "token", "gram"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_equals_autograd(depth, step_bound, is_transposed, used):
    """Also where only some of the answers, weights and momentum are used: the others have no gradient at all."""
    tensors = make_arguments(depth, is_transposed=is_transposed)
    gradients = []
    for functions in (PLAIN, BY_HAND):
        outputs = run(functions, step_bound, tensors)[used]
        loss = sum((output.sin() * output).sum() for output in outputs)
        gradients.append(torch.autograd.grad(loss, tensors, materialize_grads=True, allow_unused=True))
    for expected, actual in zip(*gradients):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_equal_tokens_share_the_gradient_of_the_bound():
    gradients = []
    for functions in (PLAIN, BY_HAND):
        tensors = make_arguments(1)  # the rounding of a product may tell equal tokens of a second matrix apart
        tensors[1] = tensors[1].detach()[:, :, :1].repeat(1, 1, TOKENS, 1).requires_grad_()
        loss = sum(output.sin().sum() for output in run(functions, "token", tensors))
        gradients.append(torch.autograd.grad(loss, tensors[1]))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("step_bound", [None, "token"])  # the other bound has none
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients(depth, step_bound):
    tensors = make_arguments(depth)
    assert torch.autograd.gradcheck(lambda *tensors: run(BY_HAND, step_bound, tensors), tensors, fast_mode=True)


def test_no_gradient_goes_through_the_gram_bound():
    """That of a write whose step is divided by the same numbers, given."""
    tensors = make_arguments(1)
    chunk, state = MemoryChunk(*tensors[1:-2]), NeuralMemoryState.from_tensors(tensors[-2:])
    (bound,) = curvature_bounds(state.weights, [chunk.keys], chunk.length, "gram")
    assert not bound.requires_grad
    divided = chunk._replace(to_weights=chunk.to_weights / bound, to_momentum=chunk.to_momentum / bound)
    wanted = [chunk.keys, state.weights[0]]
    gradients = [
        torch.autograd.grad(write(state, *rest)[1].weights[0].sin().sum(), wanted)
        for write, *rest in (
            (write_chunk, chunk, "gram"),
            (write_chunk_by_hand, chunk, "gram"),
            (write_chunk, divided, None),
        )
    ]
    for others in zip(*gradients):
        for other in others[1:]:
            torch.testing.assert_close(others[0], other, rtol=1e-10, atol=1e-12)


def test_frozen_arguments_get_no_gradient():
    tensors = make_arguments(2)
    for tensor in tensors[-4:]:
        tensor.requires_grad_(False)
    sum(output.sum() for output in run(BY_HAND, "token", tensors)).backward()
    without = {LENGTH, *range(len(tensors) - 4, len(tensors))}
    assert {index for index, tensor in enumerate(tensors) if tensor.grad is None} == without


def test_only_the_arguments_are_kept():
    tensors = make_arguments(2)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        run(BY_HAND, "token", tensors)
    assert {tensor.data_ptr() for tensor in kept} == {tensor.data_ptr() for tensor in tensors}


def test_a_second_differentiation_is_rejected():
    tensors = make_arguments(1)
    loss = run(BY_HAND, None, tensors)[0].square().sum()
    (gradient,) = torch.autograd.grad(loss, tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_autocast_does_not_reach_the_backward_pass():
    tensors = [tensor.detach().float().requires_grad_() for tensor in make_arguments(2)]
    loss = sum(output.sum() for output in run(BY_HAND, "token", tensors))
    wanted = [tensor for index, tensor in enumerate(tensors) if index != LENGTH]
    expected = torch.autograd.grad(loss, wanted, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        actual = torch.autograd.grad(loss, wanted)
    assert all(map(torch.equal, actual, expected))


def test_manual_gradients_are_used_where_gradients_are_needed(monkeypatch):
    called = []
    for function in BY_HAND:
        name = function.__name__
        spy = lambda *arguments, function=function, name=name: called.append(name) or function(*arguments)  # noqa: E731
        monkeypatch.setattr(neural_memory, name, spy)
    (queries, keys, values, gates), state = make_tokens(TOKENS), make_state(2)
    neural_memory.read_and_write_memory(state, queries, keys, values, **gates, chunk_size=2, read="chunk")
    assert called == ["read_chunk_by_hand", "write_chunk_by_hand"] * 3
    with torch.no_grad():
        neural_memory.read_and_write_memory(state, queries, keys, values, **gates, chunk_size=2, read="chunk")
    assert len(called) == 6


# --- The norms


def make_tensor(*, is_transposed=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(2, 5, 3, WIDTH, generator=generator, dtype=dtype) * torch.logspace(-2, 2, 5)[:, None, None]
    return (tensor.to(dtype).transpose(1, 2) if is_transposed else tensor.to(dtype)).requires_grad_()


def make_modules():
    modules = [kind(WIDTH, eps=1e-6).to(torch.float64) for kind in (RMSNorm, nn.RMSNorm)]
    for module in modules:
        nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(1))
    return modules


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("name", [*NORMS, "module"])
def test_a_norm_equals_torch(name, is_transposed):
    functions = make_modules() if name == "module" else NORMS[name]
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
def test_a_norm_keeps_zeros_and_has_a_finite_gradient(name):
    tensor = torch.zeros(2, WIDTH, requires_grad=True)
    output = NORMS[name][0](tensor)
    output.sum().backward()
    assert not output.any()
    assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("name", [*NORMS, "module"])
def test_a_norm_saves_one_tensor(name):
    """What is given, or with scales what goes in."""
    tensor, kept = make_tensor(), []
    norm = make_modules()[0] if name == "module" else NORMS[name][0]
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        output = norm(tensor)
    expected = tensor if name == "module" else output
    assert {saved.data_ptr() for saved in kept if saved.numel() == tensor.numel()} == {expected.data_ptr()}


@pytest.mark.parametrize("name", [*NORMS, "module"])
def test_a_second_differentiation_of_a_norm_is_rejected(name):
    tensor, norm = make_tensor(), make_modules()[0] if name == "module" else NORMS[name][0]
    (gradient,) = torch.autograd.grad(norm(tensor).square().sum(), tensor, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_an_input_of_a_norm_without_gradient_gets_none():
    module, _ = make_modules()
    module(make_tensor().detach()).sum().backward()
    assert module.weight.grad is not None


# --- Features


def test_quadratic_features_square_the_similarity():
    one, other = make_tensor().detach(), make_tensor().detach().flip(0)
    product = (quadratic_features(one) * quadratic_features(other)).sum(-1)
    torch.testing.assert_close(product, (one * other).sum(-1).square())
    assert quadratic_features(one).shape[-1] == WIDTH * (WIDTH + 1) // 2
    norms = quadratic_features(l2_normalize(one)).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("is_transposed", [False, True])
def test_the_gradient_of_quadratic_features_is_autograds(is_transposed):
    tensor, kept = make_tensor(is_transposed=is_transposed), []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        features = quadratic_features(tensor)
    assert [saved.data_ptr() for saved in kept] == [tensor.data_ptr()]
    assert torch.autograd.gradcheck(quadratic_features, (tensor,), fast_mode=True)
    with torch.no_grad():
        assert torch.equal(quadratic_features(tensor), features)
