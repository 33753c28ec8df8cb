"""One chunk by numbers that a pencil can check: its factors, its write and its bound."""

import pytest
import torch

from titans_mal.modeling.memory_chunks import (
    MemoryTokens,
    curvature_bounds,
    cut_into_chunks,
    cut_tokens,
    read_chunk,
    write_chunk,
)
from titans_mal.modeling.memory_state import NeuralMemoryState


def tokens_of(keys, values, *, forget, decay, step, written=None):
    """Tokens of one stream and one head of width 1, in float64."""
    wide = [torch.tensor(part, dtype=torch.float64).view(1, 1, -1, 1) for part in (keys, keys, values)]
    gates = [torch.tensor(part, dtype=torch.float64).view(1, 1, -1) for part in (forget, decay, step)]
    return MemoryTokens(*wide, *gates, written=None if written is None else torch.tensor([written]))


def state_of_numbers(weight, momentum):
    return NeuralMemoryState(
        *((torch.full((1, 1, 1, 1), number, dtype=torch.float64),) for number in (weight, momentum))
    )


def test_a_token_is_written_by_the_plain_equation():
    """M(k) - v = 0.5 * 2 - 3 = -2, its gradient 2 * -2 * 2 = -8; S = 0.5 * 0.1 + 0.01 * 8, M = 0.9 * 0.5 + S."""
    (chunk,) = cut_into_chunks(
        tokens_of([2.0], [3.0], forget=[0.1], decay=[0.5], step=[0.01]), chunk_size=4, is_normalized=False
    )
    errors, after = write_chunk(state_of_numbers(0.5, 0.1), chunk, None)
    assert errors.item() == -2
    assert after.momentum[0].item() == pytest.approx(0.13)
    assert after.weights[0].item() == pytest.approx(0.58)
    assert read_chunk(after.weights, chunk.keys).item() == pytest.approx(1.16)


def test_a_chunk_is_the_recurrence_with_gradients_at_its_start():
    keys, values = [1.0, -2.0, 0.5], [0.5, 1.0, 2.0]
    forget, decay, step = [0.1, 0.3, 0.0], [0.5, 0.0, 0.9], [0.02, 0.05, 0.01]
    (chunk,) = cut_into_chunks(
        tokens_of(keys, values, forget=forget, decay=decay, step=step), chunk_size=3, is_normalized=False
    )
    weight, momentum = 0.4, -0.2
    for key, value, alpha, eta, theta in zip(keys, values, forget, decay, step):
        momentum = eta * momentum - theta * 2 * (0.4 * key - value) * key
        weight = (1 - alpha) * weight + momentum
    start = state_of_numbers(0.4, -0.2)
    _, after = write_chunk(start, chunk, None)
    assert (after.weights[0].item(), after.momentum[0].item()) == pytest.approx((weight, momentum))
    assert start.weights[0].item() == 0.4
    write_chunk(start, chunk, None, in_place=True)
    assert (start.weights[0].item(), start.momentum[0].item()) == pytest.approx((weight, momentum))


def test_the_normalised_step_is_shared_by_the_written_tokens():
    """Of three places two are written: (1 - eta) theta / 2 each, over 1 + the largest squared key."""
    tokens = tokens_of(
        [1.0, 3.0, 0.0],
        [1.0, 1.0, 0.0],
        forget=[0.0] * 3,
        decay=[0.5] * 3,
        step=[0.8] * 3,
        written=[True, True, False],
    )
    (chunk,) = cut_into_chunks(tokens, chunk_size=4, is_normalized=True)
    assert chunk.length.item() == 2
    _, after = write_chunk(state_of_numbers(0.0, 0.0), chunk, "token")
    first, second = (2 * 0.8 * 0.5 / 2 / 10 * key for key in (1.0, 3.0))
    # The first token's momentum acts once more at the second.
    assert after.momentum[0].item() == pytest.approx(0.5 * first + second)
    assert after.weights[0].item() == pytest.approx(1.5 * first + second)
    without = chunk.without(torch.tensor([True]))
    unchanged = state_of_numbers(0.3, 0.7)
    _, after = write_chunk(unchanged, without, "token")
    assert [tensor.item() for tensor in after.tensors] == [0.3, 0.7]


def test_bounds_by_hand():
    keys = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64).view(1, 1, 2, 2)
    weight = torch.eye(2, dtype=torch.float64).view(1, 1, 2, 2)
    count = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    (bound,) = curvature_bounds((weight,), [keys], count, "token")
    assert bound.item() == 1 + 25
    (bound,) = curvature_bounds((weight,), [keys], count, "gram")
    gram = (25**2 + 2 * 4**2 + 1) ** 0.5
    assert bound.item() == pytest.approx(0.05 + gram / 2)
    # Behind the first matrix lie a SiLU and the second, of norm 2 ** 0.5.
    first, second = curvature_bounds((weight, weight), [keys, keys], count, "token")
    assert (first.item(), second.item()) == (pytest.approx(1 + 25 * 1.21 * 2), 26)


def test_tokens_are_cut_with_zeros_behind():
    tokens = torch.arange(1.0, 6.0).view(1, 1, 5)
    assert cut_tokens(tokens, 2).tolist() == [[[[1, 2], [3, 4], [5, 0]]]]
    assert cut_tokens(tokens, 64).shape == (1, 1, 1, 5)
    assert cut_tokens(tokens[:, :, :0], 64).shape == (1, 1, 0, 1)
