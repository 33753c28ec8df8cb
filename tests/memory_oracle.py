"""The memory's recurrence, and the whole layer around it, token by token in float64; and random problems for them."""

from itertools import pairwise

import torch
from torch.nn import functional as F

from titans_mal.modeling.memory_state import NeuralMemoryState


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


def curvature_bound(weights, keys, layer, step_bound):
    """What the normalised step is divided by: 1 + max ||a||^2, or 0.05 + ||A A^T||_F / n, times what lies behind."""
    inputs = keys
    for index, weight in enumerate(weights[:layer]):
        inputs = F.silu(inputs @ weight) if index < len(weights) - 1 else inputs @ weight
    behind = 1.0
    for weight in weights[layer + 1 :]:
        behind = behind * 1.21 * weight.square().sum()
    if step_bound == "gram":
        return 0.05 + (inputs @ inputs.T).square().sum().sqrt() / len(inputs) * behind
    return 1 + inputs.square().sum(-1).max() * behind


def monomials(vector):
    """All x_i x_j of degree 2, those of two factors times the root of 2."""
    size = len(vector)
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    return torch.stack([vector[i] * vector[j] * (1.0 if i == j else 2**0.5) for i, j in pairs])


@torch.enable_grad()
def write_head(weights, momentum, tokens, *, chunk_size, step_rule, step_bound):
    """One head's tokens, a dict each.

    S_i = eta_i S_{i-1} - theta_i grad l(M_chunk; k_i, v_i) and M_i = (1 - alpha_i) M_{i-1} + S_i.
    Equations 9, 10 and 13 of arXiv 2501.00663 with autograd's gradients; returns what each token's query reads of the
    weights at the start of its chunk, and weights and momentum after the last token.
    """
    retrieved = []
    for first in range(0, len(tokens), chunk_size):
        chunk = tokens[first : first + chunk_size]
        at_start = [weight.detach().clone().requires_grad_() for weight in weights]
        keys = torch.stack([token["key"] for token in chunk])
        bounds = [curvature_bound(at_start, keys, i, step_bound).detach() for i in range(len(at_start))]
        for token in chunk:
            retrieved.append(memory_mlp(at_start, token["query"]).detach())
            loss = (memory_mlp(at_start, token["key"]) - token["value"]).square().sum()
            gradients = torch.autograd.grad(loss, at_start)
            alpha, eta, theta = token["forget"], token["momentum"], token["step"]
            thetas = [theta] * len(weights)
            if step_rule == "normalized":
                thetas = [theta * (1 - eta) / (len(chunk) * bound) for bound in bounds]
            momentum = [eta * s - t * g for s, g, t in zip(momentum, gradients, thetas)]
            weights = [(1 - alpha) * w + s for w, s in zip(weights, momentum)]
    return retrieved, weights, momentum


def oracle(state, queries, keys, values, gates, *, mask=None, chunk_size, step_rule="paper", step_bound="token"):
    """`read_and_write_memory`: what each token reads when it reads the weights of its chunk's start, and the state."""
    answers = torch.zeros_like(queries)
    new = state.map(torch.clone)
    for stream in range(keys.shape[0]):
        written = [i for i in range(keys.shape[2]) if mask is None or mask[stream, i]]
        for head in range(keys.shape[1]):
            here = (stream, head)
            named = {"query": queries, "key": keys, "value": values, **gates}
            tokens = [{name: tensor[here][i] for name, tensor in named.items()} for i in written]
            weights, momentum = ([matrix[here] for matrix in part] for part in (state.weights, state.momentum))
            rules = {"chunk_size": chunk_size, "step_rule": step_rule, "step_bound": step_bound}
            retrieved, weights, momentum = write_head(weights, momentum, tokens, **rules)
            for i, answer in zip(written, retrieved):
                answers[here][i] = answer
            for layer, (weight, velocity) in enumerate(zip(weights, momentum)):
                new.weights[layer][here], new.momentum[layer][here] = weight, velocity
    return answers, new


def layer_oracle(layer, hidden_states, state, *, lengths, batch_sizes, write=True):
    """`TitansMemoryLayer.forward` token by token, from the layer's configuration and `state_dict` alone, in float64.

    Returns residual, surprise, state and rejected turns, as `TitansMemoryOutput` has them.
    """
    config, parameters = layer.config, {name: p.detach().double() for name, p in layer.state_dict().items()}
    residual = torch.zeros_like(hidden_states, dtype=torch.float64)
    surprise = torch.full((len(hidden_states),), torch.nan, dtype=torch.float64)
    rejected = torch.zeros(len(hidden_states), dtype=torch.bool)
    state = state.map(lambda tensor: tensor.detach().double().clone())
    streams = [stream for size in batch_sizes for stream in range(size)]
    for row, stream in enumerate(streams):
        inputs = [states.double() for states in hidden_states[row, : lengths[row]]]
        tokens = [[project_token(parameters, states, h, config) for states in inputs] for h in range(config.num_heads)]
        before = [
            ([m[stream, h] for m in state.weights], [m[stream, h] for m in state.momentum])
            for h in range(config.num_heads)
        ]
        errors, retrieved, after, is_good = process_turn(before, tokens, config)
        if inputs:
            surprise[row] = errors.mean()
        for i, states in enumerate(inputs):
            residual[row, i] = read_out(parameters, states, [of_head[i] for of_head in retrieved])
        rejected[row] = write and not is_good
        if write and is_good:
            for matrix, of_heads in zip(state.tensors, zip(*after)):
                matrix[stream] = torch.stack(of_heads)
    return residual, surprise, state, rejected


def process_turn(before, tokens, config):
    """All heads of a stream's turn: relative errors, what tokens read, matrices after it, whether these are good."""
    errors, at_start, by_chunk, after = [], [], [], []
    for (weights, momentum), of_head in zip(before, tokens):
        errors += [relative_error(weights, token) for token in of_head]
        at_start.append([memory_mlp(weights, token["query"]) for token in of_head])
        rules = {name: getattr(config, name) for name in ("chunk_size", "step_rule", "step_bound")}
        retrieved, *matrices = write_head(weights, momentum, of_head, **rules)
        by_chunk.append(retrieved)
        after.append([*matrices[0], *matrices[1]])
    is_good = True
    if config.step_rule == "normalized":
        after = [[limit_matrix(matrix) for matrix in matrices] for matrices in after]
    else:
        is_good = all(matrix.isfinite().all() and matrix.norm() <= norm_bound(matrix) for m in after for matrix in m)
    # A turn that is rejected reads as if it were not written.
    retrieved = by_chunk if config.read == "chunk" and is_good else at_start
    return torch.stack(errors) if errors else None, retrieved, after, is_good


def rms_norm(vector, eps=1e-6):
    return vector / (vector.square().mean() + eps).sqrt()


def project_token(parameters, states, head, config):
    """Query, key, value and gates of one token and head."""
    normed = rms_norm(states) * parameters["input_norm.weight"]
    rows = slice(head * config.head_dim, (head + 1) * config.head_dim)
    query, key, value = (parameters[f"{name}_proj.weight"][rows] @ normed for name in ("query", "key", "value"))
    gates = torch.sigmoid(parameters["write_gates.weight"] @ normed + parameters["write_gates.bias"])
    forget, momentum, step = gates.view(3, config.num_heads)[:, head]
    unit = {"query": query / query.norm(), "key": key / key.norm()}
    if config.feature_map == "quadratic":
        unit = {name: monomials(vector) for name, vector in unit.items()}
    return {**unit, "value": rms_norm(value), "forget": forget, "momentum": momentum, "step": step}


def relative_error(weights, token):
    """||M(k) - v||^2 / ||v||^2."""
    error = memory_mlp(weights, token["key"]) - token["value"]
    return error.square().sum() / token["value"].square().sum().clamp(min=1.0)


def norm_bound(matrix):
    """A root mean square of 8."""
    return 8 * matrix.numel() ** 0.5


def limit_matrix(matrix):
    return matrix * min(1.0, norm_bound(matrix) / float(matrix.norm())) if matrix.any() else matrix


def read_out(parameters, states, retrieved):
    """A token's residual out of what its heads retrieved."""
    normed = rms_norm(states) * parameters["input_norm.weight"]
    gate = torch.sigmoid(parameters["read_gate.weight"] @ normed + parameters["read_gate.bias"])
    answer = torch.cat([rms_norm(vector) * parameters["read_norm.weight"] for vector in retrieved])
    return parameters["output_proj.weight"] @ (gate * answer)


def assert_equal_states(one, other, tolerance=1e-10):
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
