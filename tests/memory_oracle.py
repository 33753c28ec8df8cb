"""The memory's recurrence token by token, in float64, and random problems for it."""

from itertools import pairwise

import torch
from torch.nn import functional as F

from titans_mal.modeling.neural_memory import NeuralMemoryState


STREAMS, HEADS, DIM = 2, 2, 4


def make_state(depth, *, streams=STREAMS, dtype=torch.float64, hidden=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    widths = [DIM, *[hidden] * (depth - 1), DIM]

    def draw(scale):
        return tuple(
            scale * torch.randn(streams, HEADS, a, b, generator=generator, dtype=dtype) for a, b in pairwise(widths)
        )

    return NeuralMemoryState(draw(0.3), draw(0.05))


def make_tokens(tokens, *, streams=STREAMS, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = torch.randn(3, streams, HEADS, tokens, DIM, generator=generator, dtype=dtype)
    forget, momentum, step = torch.rand(3, streams, HEADS, tokens, generator=generator, dtype=dtype)
    return queries, keys, values, {"forget": 0.3 * forget, "momentum": momentum, "step": 0.1 * step}


def make_mask(tokens, *, seed=0):
    mask = torch.rand(STREAMS, tokens, generator=torch.Generator().manual_seed(seed)) > 0.4
    mask[1, : tokens // 2] = False  # a hole that a chunk does not cover
    return mask


def memory_mlp(weights, token):
    """M(x) of one head: x W_1, or SiLU(x W_1) W_2, ..."""
    hidden = token @ weights[0]
    for weight in weights[1:]:
        hidden = F.silu(hidden) @ weight
    return hidden


def largest_curvature(weights, keys, layer):
    """1 + max ||a||^2 times what lies behind: the bound that the normalised step rule divides by."""
    inputs = keys
    for index, weight in enumerate(weights[:layer]):
        inputs = F.silu(inputs @ weight) if index < len(weights) - 1 else inputs @ weight
    behind = 1.0
    for weight in weights[layer + 1 :]:
        behind = behind * 1.21 * weight.square().sum()
    return 1 + inputs.square().sum(-1).max() * behind


def oracle(state, queries, keys, values, gates, *, mask=None, chunk_size, step_rule="paper"):
    """Token by token: S_i = eta_i S_{i-1} - theta_i grad l(M_chunk), M_i = (1 - alpha_i) M_{i-1} + S_i.

    Equations 9, 10 and 13 of arXiv 2501.00663 with autograd's gradients; returns what each token reads when it reads
    the weights at the start of its chunk, and the state.
    """
    answers = torch.zeros_like(queries)
    new = state.map(torch.clone)
    for stream in range(keys.shape[0]):
        written = [i for i in range(keys.shape[2]) if mask is None or mask[stream, i]]
        for head in range(keys.shape[1]):
            here = (stream, head)
            weights = [weight[here] for weight in state.weights]
            momenta = [momentum[here] for momentum in state.momentum]
            for first in range(0, len(written), chunk_size):
                chunk = written[first : first + chunk_size]
                at_start = [weight.detach().clone().requires_grad_() for weight in weights]
                bounds = [largest_curvature(at_start, keys[here][chunk], i) for i in range(len(at_start))]
                for i in chunk:
                    answers[here][i] = memory_mlp(at_start, queries[here][i]).detach()
                    loss = (memory_mlp(at_start, keys[here][i]) - values[here][i]).square().sum()
                    gradients = torch.autograd.grad(loss, at_start)
                    alpha, eta, theta = (gates[name][here][i] for name in ("forget", "momentum", "step"))
                    thetas = [theta] * len(weights)
                    if step_rule == "normalized":
                        thetas = [theta * (1 - eta) / (len(chunk) * bound.detach()) for bound in bounds]
                    momenta = [eta * s - t * g for s, g, t in zip(momenta, gradients, thetas)]
                    weights = [(1 - alpha) * w + s for w, s in zip(weights, momenta)]
            for layer, (weight, momentum) in enumerate(zip(weights, momenta)):
                new.weights[layer][here], new.momentum[layer][here] = weight, momentum
    return answers, new


def assert_equal_states(one, other, tolerance=1e-10):
    for a, b in zip((*one.weights, *one.momentum), (*other.weights, *other.momentum)):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
