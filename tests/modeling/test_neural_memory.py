import pytest
import torch
from memory_oracle import (
    DIM,
    HEADS,
    STREAMS,
    assert_equal_states,
    make_mask,
    make_state,
    make_tokens,
    oracle,
)
from torch.nn import functional as F

from titans_mal.modeling.memory_chunks import MemoryTokens
from titans_mal.modeling.neural_memory import (
    NeuralMemoryState,
    process_turns,
    read_and_write_memory,
    read_memory,
    write_memory,
)


@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 16, 21])
@pytest.mark.parametrize("chunk_size", [1, 3, 16])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_equals_the_oracle(depth, chunk_size, tokens, masked, step_rule):
    state = make_state(depth)
    queries, keys, values, gates = make_tokens(tokens)
    mask = make_mask(tokens) if masked else None
    rule = {"mask": mask, "chunk_size": chunk_size, "step_rule": step_rule}
    answers, expected = oracle(state, queries, keys, values, gates, **rule)

    assert_equal_states(write_memory(state, keys, values, **gates, **rule), expected)

    history, after = read_and_write_memory(state, queries, keys, values, **gates, **rule, read="history")
    assert_equal_states(after, expected)
    torch.testing.assert_close(history, read_memory(state.weights, queries), rtol=0, atol=0)

    within, after = read_and_write_memory(state, queries, keys, values, **gates, **rule, read="chunk")
    assert_equal_states(after, expected)
    keep = torch.ones(STREAMS, tokens, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(within.transpose(1, 2)[keep], answers.transpose(1, 2)[keep], rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 3, 16])
@pytest.mark.parametrize("name", ["forget", "momentum", "step"])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("where", ["all", "one"])
def test_gates_at_exactly_zero_and_one(where, value, name, chunk_size):
    state = make_state(2)
    queries, keys, values, gates = make_tokens(11)
    gates["step"] = gates["step"] * 0.1
    tokens = slice(None) if where == "all" else 5
    gates[name][:, :, tokens] = 0.01 if (name, value) == ("step", 1.0) and where == "all" else value
    mask = make_mask(11)
    _, expected = oracle(state, queries, keys, values, gates, mask=mask, chunk_size=chunk_size)
    actual = write_memory(state, keys, values, **gates, mask=mask, chunk_size=chunk_size)
    assert all(torch.isfinite(weight).all() for weight in actual.weights)
    # Steps of size one let the numbers grow: relative to their size.
    size = max(1.0, max(float(weight.abs().max()) for weight in expected.weights))
    assert_equal_states(actual, expected, tolerance=1e-10 * size)


def test_chunk_size_one_is_the_papers_recurrence():
    """With chunks of one token, each gradient is taken at the weights that the token before left."""
    state, (_, keys, values, gates) = make_state(2), make_tokens(9)
    whole = write_memory(state, keys, values, **gates, chunk_size=1)
    for i in range(9):
        now = {name: gate[:, :, i : i + 1] for name, gate in gates.items()}
        state = write_memory(state, keys[:, :, i : i + 1], values[:, :, i : i + 1], **now, chunk_size=64)
    assert_equal_states(whole, state)


@pytest.mark.parametrize("read", ["history", "chunk"])
@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients(depth, step_rule, read):
    state, (queries, keys, values, gates) = make_state(depth, streams=1), make_tokens(5, streams=1)
    mask = torch.tensor([[True, True, False, True, True]])
    inputs = (*state.tensors, queries, keys, values, *gates.values())

    def run(*tensors):
        *state, queries, keys, values, forget, momentum, step = tensors
        answers, after = read_and_write_memory(
            NeuralMemoryState.from_tensors(state), queries, keys, values, forget=forget, momentum=momentum, step=step,
            mask=mask, chunk_size=3, step_rule=step_rule, read=read,
        )  # fmt: skip
        return (answers.transpose(1, 2)[mask], *after.tensors)

    assert torch.autograd.gradcheck(run, tuple(tensor.detach().requires_grad_() for tensor in inputs))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_with_gates_at_zero_and_one(value):
    state, (_, keys, values, gates) = make_state(2), make_tokens(9)
    gates = {name: torch.full_like(gate, value).requires_grad_() for name, gate in gates.items()}
    after = write_memory(state, keys, values, **gates, chunk_size=4, step_rule="normalized")
    sum(weight.square().sum() for weight in after.weights).backward()
    assert all(torch.isfinite(gate.grad).all() for gate in gates.values())


@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
def test_masked_tokens_are_as_if_absent(step_rule):
    state, (_, keys, values, gates) = make_state(2), make_tokens(17)
    mask = make_mask(17)
    for tensor in (keys, values, *gates.values()):
        tensor.transpose(1, 2)[~mask] = torch.nan  # whatever they hold
    rule = {"chunk_size": 3, "step_rule": step_rule}
    packed = write_memory(state, keys, values, **gates, mask=mask, **rule)
    for stream in range(STREAMS):
        keep = mask[stream]
        one = {name: gate[[stream]][:, :, keep] for name, gate in gates.items()}
        alone = write_memory(state[[stream]], keys[[stream]][:, :, keep], values[[stream]][:, :, keep], **one, **rule)
        assert_equal_states(packed[[stream]], alone)


@pytest.mark.parametrize("read", ["history", "chunk"])
@pytest.mark.parametrize("tokens", [0, 6])
def test_nothing_written_leaves_the_state_bit_equal(tokens, read):
    state, (queries, keys, values, gates) = make_state(2), make_tokens(tokens)
    mask = torch.zeros(STREAMS, tokens, dtype=torch.bool)
    answers, after = read_and_write_memory(
        state, queries, keys, values, **gates, mask=mask, chunk_size=4, read=read, step_rule="normalized"
    )
    assert answers.shape == queries.shape
    assert_equal_states(after, state, tolerance=0)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("tokens", [0, 8])
def test_the_state_before_is_not_modified(tokens, gradients):
    state, (_, keys, values, gates) = make_state(2), make_tokens(tokens)
    before = state.map(torch.clone)
    with torch.set_grad_enabled(gradients):
        after = write_memory(state, keys, values, **gates, chunk_size=4)
    assert_equal_states(state, before, tolerance=0)
    assert torch.equal(after.weights[0], before.weights[0]) == (tokens == 0)


@pytest.mark.parametrize("gradients", [False, True])
def test_streams_may_start_from_one_expanded_state(gradients):
    state, (_, keys, values, gates) = make_state(2, streams=1), make_tokens(8)
    expanded = state.map(lambda tensor: tensor.expand(STREAMS, *tensor.shape[1:]))
    with torch.set_grad_enabled(gradients):
        after = write_memory(expanded, keys, values, **gates, chunk_size=4)
    assert_equal_states(after, write_memory(expanded.map(torch.clone), keys, values, **gates, chunk_size=4))


@pytest.mark.parametrize("chunk_size", [4, 7, 16])
@pytest.mark.parametrize("gradients", [False, True])
def test_errors_are_those_before_the_turn_was_written(gradients, chunk_size):
    state, (queries, keys, values, gates) = make_state(2), make_tokens(7)
    tokens = MemoryTokens(queries, keys, values, gates["forget"], gates["momentum"], gates["step"], None)
    with torch.set_grad_enabled(gradients):
        state = state.map(lambda tensor: tensor.requires_grad_(gradients))
        errors = process_turns(
            state, tokens, [STREAMS], read="history", chunk_size=chunk_size, step_rule="paper"
        ).errors
    assert not errors.requires_grad
    expected = (read_memory(state.weights, keys) - values).square().sum(-1)
    torch.testing.assert_close(errors, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_state_is_float32_or_float64(dtype):
    state = make_state(2, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    queries, keys, values, gates = make_tokens(8, dtype=dtype)
    answers, after = read_and_write_memory(state, queries, keys, values, **gates, chunk_size=4, read="chunk")
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {answers.dtype, *(tensor.dtype for tensor in after.tensors)} == {expected}
    assert write_memory(state, keys, values, **gates, chunk_size=4).weights[0].dtype == expected


@pytest.mark.parametrize("step_bound", ["token", "gram"])
def test_normalised_steps_stay_bounded_on_correlated_keys(step_bound):
    """One key, again and again with the largest step: the paper's rule blows up, the normalised one does not."""
    state = make_state(2, dtype=torch.float32)
    torch.manual_seed(0)
    key = F.normalize(torch.randn(STREAMS, HEADS, 1, DIM), dim=-1).expand(-1, -1, 640, -1)
    value = torch.randn(STREAMS, HEADS, 1, DIM).expand(-1, -1, 640, -1)
    ones = torch.ones(STREAMS, HEADS, 640)
    gates = {"forget": 0 * ones, "momentum": 0.5 * ones, "step": ones}
    after = write_memory(state, key, value, **gates, chunk_size=64, step_rule="normalized", step_bound=step_bound)
    error = (read_memory(after.weights, key) - value).square().sum(-1)
    assert (error < (read_memory(state.weights, key) - value).square().sum(-1)).all()
    paper = write_memory(state, key, value, **gates, chunk_size=64, step_rule="paper")
    assert not all((weight.abs() < 1e3).all() for weight in paper.weights)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("keys", ["random", "equal"])
@pytest.mark.parametrize("step_bound", ["token", "gram"])
def test_a_chunk_written_again_and_again_converges(step_bound, keys, tokens, momentum):
    """With the largest step: what `curvature_bounds` proves of a linear memory, by the eigenvalues of its map."""
    generator = torch.Generator().manual_seed(tokens)
    key = torch.randn(1, 1, 1 if keys == "equal" else tokens, DIM, generator=generator, dtype=torch.float64)
    # A state for each number of weights and momentum that is one alone, and the map at zero.
    basis = torch.cat([torch.eye(2 * DIM), torch.zeros(1, 2 * DIM)]).double()
    state = NeuralMemoryState.from_tensors(basis[:, None, :, None].split(DIM, dim=2))
    key = F.normalize(key, dim=-1).expand(len(basis), 1, tokens, DIM)
    gates = {
        name: torch.full(key.shape[:3], gate).double() for name, gate in (("forget", 0.0), ("momentum", momentum))
    }
    gates["step"] = torch.ones_like(gates["forget"])
    rules = {"chunk_size": tokens, "step_rule": "normalized", "step_bound": step_bound}
    after = torch.cat(write_memory(state, key, key[..., :1], **gates, **rules).tensors, dim=2).flatten(1)
    sizes = torch.linalg.eigvals(after[:-1] - after[-1]).abs()
    assert sizes.max() <= 1 + 1e-12
    if keys == "random" and tokens > DIM:  # no direction without a key
        assert sizes.max() < 1 - 1e-6


@pytest.mark.parametrize("read", ["history", "chunk"])
def test_compiles_without_a_graph_break(read):
    state, (queries, keys, values, gates) = make_state(2, dtype=torch.float32), make_tokens(10, dtype=torch.float32)
    mask = make_mask(10)

    def run(mask):
        return read_and_write_memory(state, queries, keys, values, **gates, mask=mask, chunk_size=4, read=read)

    answers, after = torch.compile(run, fullgraph=True, backend="eager")(mask)
    expected_answers, expected = run(mask)
    torch.testing.assert_close(answers, expected_answers)
    assert_equal_states(after, expected, tolerance=1e-6)


def test_runs_under_inference_mode():
    state, (_, keys, values, gates) = make_state(2), make_tokens(10)
    with torch.inference_mode():
        after = write_memory(state, keys, values, **gates, chunk_size=4)
    assert_equal_states(after, write_memory(state, keys, values, **gates, chunk_size=4), tolerance=0)


def spoiled_inputs():
    state, (_, keys, values, gates) = make_state(2), make_tokens(6)
    good = {"keys": keys, "values": values, **gates, "chunk_size": 4}
    yield "chunk_size must be at least 1, got 0", state, good | {"chunk_size": 0}
    yield "step_rule must be one of", state, good | {"step_rule": "fast"}
    yield "step_bound must be one of", state, good | {"step_bound": "none"}
    yield "keys and values must be", state, good | {"keys": keys[..., :3]}
    yield "keys and values must be", state, good | {"values": values[:, :, :5]}
    yield "keys and values must be", state, good | {"keys": keys[0]}
    yield "forget must be", state, good | {"forget": gates["forget"][..., None]}
    yield "mask must be a bool tensor", state, good | {"mask": torch.ones(STREAMS, 6)}
    yield "mask must be a bool tensor", state, good | {"mask": torch.ones(STREAMS, 5, dtype=torch.bool)}


@pytest.mark.parametrize(("message", "state", "inputs"), list(spoiled_inputs()))
def test_bad_input(message, state, inputs):
    with pytest.raises(ValueError, match=message):
        write_memory(state, **inputs)


def test_bad_reads():
    state, (queries, keys, values, gates) = make_state(2), make_tokens(6)
    with pytest.raises(ValueError, match=r"read must be one of .* got 'future'"):
        read_and_write_memory(state, queries, keys, values, **gates, chunk_size=4, read="future")
    with pytest.raises(ValueError, match="queries must have the shape of the keys"):
        read_and_write_memory(state, queries[:, :, :4], keys, values, **gates, chunk_size=4, read="chunk")
