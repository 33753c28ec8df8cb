import pytest
import torch
from tiny_models import stir

from titans_mal import TitansMemoryConfig
from titans_mal.modeling.titans_memory_layer import TitansMemory


HIDDEN = 24


def make_layer(*, fresh=False, **kwargs):
    torch.manual_seed(0)
    memory = TitansMemory(
        TitansMemoryConfig(**{"num_heads": 2, "head_dim": 8, "depth": 2, "chunk_size": 4} | kwargs), HIDDEN
    )
    if not fresh:
        stir(memory)
    return memory.layers[0]


def hidden_states(rows=3, tokens=11, seed=0):
    return torch.randn(rows, tokens, HIDDEN, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("read", ["history", "chunk"])
def test_residual_of_a_fresh_layer_is_exactly_zero(read):
    layer, states = make_layer(fresh=True, read=read), hidden_states()
    output = layer(states, layer.initial_state(3))
    again = layer(states, output.state)
    assert not output.residual.any()
    assert not again.residual.any()
    assert again.surprise.lt(output.surprise).all()  # it has written all the same


def test_initial_gates_are_those_of_the_config():
    layer = make_layer(fresh=True, forget_half_life=100.0, initial_momentum=0.7, initial_step=0.2)
    forget, momentum, step = torch.sigmoid(layer.write_gates.bias).chunk(3)
    torch.testing.assert_close((1 - forget) ** 100, torch.full((2,), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(momentum, torch.full((2,), 0.7))
    torch.testing.assert_close(step, torch.full((2,), 0.2))


@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
@pytest.mark.parametrize("read", ["history", "chunk"])
def test_turns_of_one_stream_walk_through_its_memory(read, step_rule):
    layer, states = make_layer(read=read, step_rule=step_rule), hidden_states(rows=5)
    lengths = torch.tensor([11, 4, 0, 7, 9])
    # The first turns of two streams, their second ones, and a third one of the first stream.
    output = layer(states, layer.initial_state(2), lengths=lengths, turns=[2, 2, 1])
    for stream, rows in enumerate(([0, 2, 4], [1, 3])):
        state = layer.initial_state(1)
        for row in rows:
            single = layer(states[[row]], state, lengths=lengths[[row]])
            torch.testing.assert_close(output.residual[[row]], single.residual)
            torch.testing.assert_close(output.surprise[[row]], single.surprise, equal_nan=True)
            state = single.state
        for whole, alone in zip(output.state[[stream]].weights, state.weights):
            torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize("read", ["history", "chunk"])
def test_what_is_beyond_a_turn_gets_no_residual_and_a_turn_without_tokens_writes_nothing(read):
    layer, states = make_layer(read=read), hidden_states(rows=2)
    states[0, 6:] = torch.inf  # whatever it holds
    before = layer.initial_state(2)
    output = layer(states, before, lengths=torch.tensor([6, 0]))
    assert not output.residual[0, 6:].any()
    assert not output.residual[1].any()
    assert output.residual[0, :6].any()
    torch.testing.assert_close(output.residual[:1, :6], layer(states[:1, :6], before[:1]).residual)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(output.state.weights, before.weights))
    assert output.surprise[1].isnan()


def test_surprise_is_the_relative_error_before_the_turn():
    layer, states = make_layer(), hidden_states(rows=1)
    normed = layer.input_norm(states)
    keys, values = (
        project(normed).unflatten(-1, (2, 8)).transpose(1, 2) for project in (layer.key_proj, layer.value_proj)
    )
    keys = keys / keys.norm(dim=-1, keepdim=True)
    values = values / values.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    first, second = layer.initial_memory
    answers = torch.nn.functional.silu(keys @ first) @ second
    expected = ((answers - values).square().sum(-1) / values.square().sum(-1)).mean()
    torch.testing.assert_close(layer(states, layer.initial_state(1)).surprise[0], expected)


def test_reading_without_writing_leaves_the_state():
    layer = make_layer(read="chunk")
    before = layer.initial_state(3)
    assert layer(hidden_states(), before, write=False).state is before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stays_float32_in_a_half_precision_host(dtype):
    layer, states = make_layer(), hidden_states()
    expected = layer(states, layer.initial_state(3))
    memory = TitansMemory(layer.config, HIDDEN)
    memory.layers[0].load_state_dict(layer.state_dict())
    memory.to(dtype)
    layer = memory.layers[0]
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(states, layer.initial_state(3))
    torch.testing.assert_close(output.residual, expected.residual)
    assert output.state.weights[0].dtype == torch.float32


def test_many_turns_stay_finite():
    layer = make_layer()
    state = layer.initial_state(1)
    for turn in range(300):
        output = layer(hidden_states(rows=1, seed=turn % 7), state)
        state = output.state
    assert torch.isfinite(output.residual).all()
    assert max(weight.norm().item() for weight in state.weights) < 1e2
