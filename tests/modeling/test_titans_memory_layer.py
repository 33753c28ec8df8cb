import pytest
import torch
from memory_oracle import assert_equal_states, layer_oracle
from tiny_models import stir

from titans_mal import TitansMemoryConfig
from titans_mal.modeling.memory_state import NeuralMemoryState
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


def assert_equals_the_oracle(layer, states, state, *, lengths=None, batch_sizes=None, write=True, tolerance=1e-9):
    """With gradients by hand and without; returns the output."""
    known = [states.shape[1]] * len(states) if lengths is None else lengths.tolist()
    sizes = [len(states)] if batch_sizes is None else batch_sizes
    expected = layer_oracle(layer, states, state, lengths=known, batch_sizes=sizes, write=write)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            output = layer(states, state, lengths=lengths, batch_sizes=batch_sizes, write=write)
        residual, surprise, after, rejected = expected
        torch.testing.assert_close(output.residual, residual, rtol=0, atol=tolerance)
        torch.testing.assert_close(output.surprise, surprise, rtol=1e-12, atol=tolerance, equal_nan=True)
        assert_equal_states(output.state, after, tolerance)
        reported = torch.zeros_like(rejected) if output.is_rejected is None else output.is_rejected
        assert reported.tolist() == rejected.tolist()
    return output


# The first turns of three streams, the second ones of two, and a third one of the first.
RAGGED = {"lengths": torch.tensor([5, 3, 4, 0, 2, 4]), "batch_sizes": [3, 2, 1]}


@pytest.mark.parametrize("chunk_size", [1, 3])
@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
@pytest.mark.parametrize("read", ["history", "chunk"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_equals_the_oracle(depth, read, step_rule, chunk_size):
    """The product's way, as a whole: norms, projections, gates, several turns of ragged lengths, readout."""
    memory = {"depth": depth, "expansion": 2, "read": read, "step_rule": step_rule, "chunk_size": chunk_size}
    layer = make_layer(head_dim=3, **memory).double()
    if step_rule == "paper":
        with torch.no_grad():
            layer.write_gates.bias[4:] -= 3.0  # small steps, so that it converges
    first = assert_equals_the_oracle(layer, hidden_states(rows=6, tokens=5).double(), layer.initial_state(3), **RAGGED)
    assert first.is_rejected is None or not first.is_rejected.any()
    # And from where that ended: with momentum.
    again = hidden_states(rows=3, tokens=4, seed=1).double()
    second = assert_equals_the_oracle(layer, again, first.state)
    assert second.residual.abs().max() > 0.1
    assert_equals_the_oracle(layer, again, first.state, write=False)


@pytest.mark.parametrize("step_bound", ["token", "gram"])
@pytest.mark.parametrize("feature_map", ["identity", "quadratic"])
@pytest.mark.parametrize("depth", [1, 2])
def test_equals_the_oracle_with_other_keys_and_steps(depth, feature_map, step_bound):
    layer = make_layer(head_dim=3, depth=depth, feature_map=feature_map, step_bound=step_bound, read="chunk").double()
    states = hidden_states(rows=6, tokens=5).double()
    first = assert_equals_the_oracle(layer, states, layer.initial_state(3), **RAGGED)
    assert_equals_the_oracle(layer, states[:3], first.state)
    assert first.state.weights[0].shape[2] == (6 if feature_map == "quadratic" else 3)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("read", ["history", "chunk"])
def test_equals_the_oracle_where_turns_are_rejected(read, depth):
    layer = make_layer(head_dim=3, depth=depth, read=read, step_rule="paper", chunk_size=16).double()
    with torch.no_grad():
        layer.write_gates.weight.zero_()
        layer.write_gates.bias.copy_(torch.tensor([-3.0, 1.0, -0.5]).repeat_interleave(2))
    states, lengths = hidden_states(rows=6, tokens=30).double(), torch.tensor([30, 3, 5, 4, 2, 30])
    output = assert_equals_the_oracle(
        layer, states, layer.initial_state(3), lengths=lengths, batch_sizes=[3, 2, 1], tolerance=1e-7
    )
    assert output.is_rejected.tolist() == [True, False, False, False, False, True]
    assert_equals_the_oracle(layer, states[:3], layer.initial_state(3), lengths=lengths[:3], write=False)


@pytest.mark.parametrize("scale", [1e3, 1e-31])
@torch.no_grad()
def test_equals_the_oracle_at_the_bounds(scale):
    """Matrices beyond `norm_bound` are scaled down, and tiny ones are zero."""
    layer = make_layer(head_dim=3).double()
    with torch.no_grad():
        layer.write_gates.bias[4:] = -1e9 if scale < 1 else 0.0  # no step, or a large one
    before = layer.initial_state(3).map(lambda tensor: scale * (tensor + 1.0))
    before.weights[0][0] /= scale  # one stream within the bounds
    output = assert_equals_the_oracle(layer, hidden_states().double(), before)
    if scale < 1:
        assert not output.state.weights[1].any()


@pytest.mark.parametrize(
    "memory",
    [{"step_rule": "paper"}, {"read": "chunk"}, {"feature_map": "quadratic", "read": "chunk", "step_rule": "paper"}],
)
def test_gradients(memory):
    """By hand, through turns of ragged lengths, of the hidden states and of every parameter."""
    layer = make_layer(head_dim=3, chunk_size=2, **memory).double()
    names, parameters = zip(*layer.named_parameters())
    ragged = {"lengths": torch.tensor([5, 3, 4]), "batch_sizes": [2, 1]}

    def run(states, *parameters):
        named = dict(zip(names, parameters))
        initial = [named[f"initial_memory_{index}"].expand(2, -1, -1, -1) for index in range(2)]
        state = NeuralMemoryState(tuple(initial), tuple(torch.zeros_like(weight) for weight in initial))
        output = torch.func.functional_call(layer, named, (states, state), ragged)
        return (output.residual, *output.state.tensors)

    inputs = hidden_states(rows=3, tokens=5).double().requires_grad_()
    assert torch.autograd.gradcheck(run, (inputs, *parameters), fast_mode=True)


def test_initial_gates_are_those_of_the_config():
    layer = make_layer(fresh=True, forget_half_life=100.0, initial_momentum=0.7, initial_step=0.2)
    forget, momentum, step = torch.sigmoid(layer.write_gates.bias).chunk(3)
    torch.testing.assert_close((1 - forget) ** 100, torch.full((2,), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(momentum, torch.full((2,), 0.7))
    torch.testing.assert_close(step, torch.full((2,), 0.2))


@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
@pytest.mark.parametrize("read", ["history", "chunk"])
def test_turns_of_one_stream_walk_through_its_memory(read, step_rule):
    layer, states = make_layer(read=read, step_rule=step_rule), hidden_states(rows=6)
    lengths = torch.tensor([11, 4, 10, 0, 7, 9])
    # The first turns of three streams, the second ones of two, and a third one of the first.
    output = layer(states, layer.initial_state(3), lengths=lengths, batch_sizes=[3, 2, 1])
    for stream, rows in enumerate(([0, 3, 5], [1, 4], [2])):
        state = layer.initial_state(1)
        for row in rows:
            single = layer(states[[row]], state, lengths=lengths[[row]])
            torch.testing.assert_close(output.residual[[row]], single.residual)
            torch.testing.assert_close(output.surprise[[row]], single.surprise, equal_nan=True)
            state = single.state
        for whole, alone in zip(output.state[[stream]].weights, state.weights):
            torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize("read", ["history", "chunk"])
def test_padding_gets_no_residual_and_empty_turns_write_nothing(read):
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


def test_padding_does_not_affect_the_gradients():
    layer, states = make_layer(), hidden_states(rows=2)
    gradients = []
    for tokens in (states[:, :6], states):
        leaf = tokens.clone().requires_grad_()
        seen = []
        handle = layer.query_proj.register_full_backward_hook(lambda *of: seen.append(of[2][0]))  # noqa: B023
        output = layer(leaf, layer.initial_state(2), lengths=torch.tensor([6, 6]))
        gradients.append(
            torch.autograd.grad(output.residual.sin().sum(), [leaf, *layer.parameters()], allow_unused=True)
        )
        handle.remove()
    for alone, padded in zip(*gradients):
        if alone is not None:
            torch.testing.assert_close(padded[:, :6] if padded.shape[1:] == states.shape[1:] else padded, alone)
    assert not gradients[1][0][:, 6:].any()
    assert not seen[0][:, 6:].any()  # nor in passing: at zero, the gradient of a norm is huge


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory",
    [
        {"step_rule": "paper"},
        {},
        {"read": "chunk"},
        {"read": "chunk", "feature_map": "quadratic", "step_bound": "gram"},
    ],
    ids=str,
)
def test_a_compiled_layer_learns_the_same(memory):
    layer, states = make_layer(**memory), hidden_states(rows=3)
    gradients = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        state = layer.initial_state(2)
        output = function(states, state, lengths=torch.tensor([11, 7, 9]), batch_sizes=[2, 1])
        loss = output.residual.sin().sum() + output.state.weights[0].sin().sum()
        gradients.append(torch.autograd.grad(loss, list(layer.parameters()), allow_unused=True))
    for expected, actual in zip(*gradients):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (
            "batch_sizes must be non-increasing, begin with the state's 2 streams and sum to the 3 rows",
            {"batch_sizes": [1, 2]},
        ),
        ("batch_sizes must be non-increasing", {"batch_sizes": [2]}),
        ("batch_sizes must be non-increasing", {"batch_sizes": [3]}),
        ("batch_sizes must be non-increasing", {"batch_sizes": []}),
        ("batch_sizes must be non-increasing", {"batch_sizes": [2, 2, -1]}),
        (r"lengths must be \(3,\) integers", {"batch_sizes": [2, 1], "lengths": torch.rand(3)}),
        ("batch_sizes must be non-increasing", {}),
        (r"lengths must be \(3,\)", {"batch_sizes": [2, 1], "lengths": torch.tensor([4])}),
    ],
)
def test_mismatched_arguments_are_rejected(message, arguments):
    layer = make_layer()
    with pytest.raises(ValueError, match=message):
        layer(hidden_states(rows=3), layer.initial_state(2), **arguments)


@pytest.mark.parametrize("read", ["history", "chunk"])
def test_a_layer_of_half_precision_writes_a_state_of_single_precision(read):
    layer, states = make_layer(read=read), hidden_states()
    expected = layer(states, layer.initial_state(3))
    half = layer.to(torch.bfloat16)
    output = half(states, half.initial_state(3))
    assert output.residual.dtype == torch.bfloat16
    assert output.state.weights[0].dtype == torch.float32
    torch.testing.assert_close(output.residual.float(), expected.residual, rtol=0.1, atol=0.1)


def test_silence_is_no_surprise():
    layer = make_layer()
    assert layer(torch.zeros(1, 5, HIDDEN), layer.initial_state(1)).surprise.tolist() == [0.0]


def test_turns_without_a_later_reader_get_no_gradient():
    layer = make_layer()
    layer(hidden_states(), layer.initial_state(3)).residual.sum().backward()
    assert layer.key_proj.weight.grad is None
    assert layer.query_proj.weight.grad is not None


def test_turns_that_are_only_read_see_what_was_before_the_call():
    layer = make_layer()
    before = layer(hidden_states(rows=2, seed=1), layer.initial_state(2)).state
    output = layer(hidden_states(rows=3), before, batch_sizes=[2, 1], write=False)
    alone = layer(hidden_states(rows=3)[[2]], before[:1], write=False)
    torch.testing.assert_close(output.residual[[2]], alone.residual)
    torch.testing.assert_close(output.surprise[[2]], alone.surprise)
    assert torch.equal(output.state.weights[0], before.weights[0])


def test_reading_alone_is_never_rejected():
    layer = make_layer(read="chunk", step_rule="paper")
    assert layer(hidden_states(), layer.initial_state(3), write=False).is_rejected is None


def test_a_turn_without_tokens_changes_nothing():
    layer = make_layer(read="chunk")
    before = layer.initial_state(2)
    output = layer(torch.empty(2, 0, HIDDEN), before)
    assert output.residual.shape == (2, 0, HIDDEN)
    assert torch.equal(output.state.weights[0], before.weights[0])


@pytest.mark.parametrize("chunk_size", [4, 16])
@pytest.mark.parametrize("read", ["history", "chunk"])
def test_the_surprise_of_a_rejected_turn_is_that_before_it(read, chunk_size):
    """The plain equation diverges on such steps."""
    outputs = []
    for step_rule in ("paper", "normalized"):
        layer = make_layer(read=read, step_rule=step_rule, chunk_size=chunk_size)
        with torch.no_grad():
            layer.write_gates.bias.fill_(10.0)
        outputs.append(layer(1e3 * hidden_states(rows=2, tokens=64), layer.initial_state(2)))
    assert outputs[0].is_rejected.any()
    torch.testing.assert_close(outputs[0].surprise, outputs[1].surprise)


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
