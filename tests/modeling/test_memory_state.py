"""A memory stays finite and bounded, whatever is written and for however long."""

import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_oracle import STREAMS, assert_equal_states, make_state, make_tokens, oracle
from tiny_models import tiny_model, tiny_turns
from torch import Tensor

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.memory_gradients import bound_state_by_hand
from titans_mal.modeling.memory_state import NeuralMemoryState, bound_state, norm_bound
from titans_mal.modeling.neural_memory import write_memory


BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


ZERO = torch.tensor([0])
SIZES = torch.tensor([1.0, 1e6])[:, None, None, None]  # one stream within the bound, one beyond


def draw_state(*, depth=1, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(2 * depth, 2, 3, 4, 5, generator=generator, dtype=dtype)
    return NeuralMemoryState.from_tensors(matrices.unbind())


def test_a_state_maps_its_tensors_in_their_places():
    state = make_state(3)
    assert state.tensors == (*state.weights, *state.momentum)
    assert NeuralMemoryState.from_tensors(state.tensors) == state
    other = state.map(lambda tensor: 2 * tensor)
    difference = other.map(lambda one, two, three: one - two - three, state, state)
    assert [tensor.shape for tensor in difference.weights] == [tensor.shape for tensor in state.weights]
    assert not any(tensor.any() for tensor in difference.tensors)
    twice = NeuralMemoryState.concatenate([state, other])
    assert_equal_states(twice[:STREAMS], state, tolerance=0)
    assert_equal_states(twice[torch.tensor([STREAMS])], other[:1], tolerance=0)


@pytest.mark.parametrize("in_place", [False, True])
@torch.no_grad()
def test_a_matrix_within_its_bound_is_left_bit_for_bit(in_place):
    state = draw_state()
    bounded = bound_state(state.map(lambda matrix: matrix * SIZES), clip=True, in_place=in_place)
    for matrix, before in zip(bounded.tensors, state.tensors):
        assert torch.equal(matrix[0], before[0])
        torch.testing.assert_close(matrix[1].norm(dim=(-2, -1)), torch.full((3,), norm_bound(matrix)).double())
    assert bounded.map(lambda matrix: matrix * 0.999).is_within_bounds().tolist() == [True, True]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_one_matrix_beyond_its_bound_is_enough(place):
    for spoil, index in (
        (lambda matrix: matrix * SIZES, 1),
        (lambda matrix: matrix.index_fill(0, ZERO, torch.nan), 0),
    ):
        tensors = list(draw_state(depth=2).tensors)
        tensors[place] = spoil(tensors[place])
        expected = [stream != index for stream in range(2)]
        assert NeuralMemoryState.from_tensors(tensors).is_within_bounds().tolist() == expected


def test_a_memory_at_its_bound_is_good():
    matrix = torch.full((1, 1, 4, 4), 8.0)
    assert NeuralMemoryState((matrix,), (matrix,)).is_within_bounds().tolist() == [True]


def test_a_bound_saves_only_its_results():
    state, kept = draw_state().map(Tensor.requires_grad_), []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        results = bound_state_by_hand(state).tensors
    large = {saved.data_ptr() for saved in kept if saved.numel() == results[0].numel()}
    assert large == {result.data_ptr() for result in results}


def test_the_gradient_of_a_bound_is_autograds():
    state, factor = draw_state().map(lambda matrix: matrix * SIZES), draw_state(seed=1).weights[0]
    gradients = []
    for function in (lambda state: bound_state(state, clip=True), bound_state_by_hand):
        leaves = state.map(lambda matrix: matrix.clone().requires_grad_())
        (function(leaves).weights[0] * factor).sin().sum().backward()
        assert leaves.momentum[0].grad is None or not leaves.momentum[0].grad.any()
        gradients.append(leaves.weights[0].grad)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("function", [lambda state: bound_state(state, clip=True), bound_state_by_hand])
def test_the_bound_of_nothing_has_a_gradient(function):
    nothing = NeuralMemoryState.from_tensors(torch.zeros(2, 1, 1, 4, 5).unbind()).map(Tensor.requires_grad_)
    function(nothing).weights[0].sum().backward()
    assert torch.equal(nothing.weights[0].grad, torch.ones_like(nothing.weights[0]))


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_writing_leaves_no_matrix_beyond_its_bound(depth, gradients):
    """The adversarial turns below never get there, so here is a state that is there already."""
    state = make_state(depth, dtype=torch.float32).map(lambda tensor: 1e4 * tensor)
    _, keys, values, gates = make_tokens(8, dtype=torch.float32)
    with torch.set_grad_enabled(gradients):
        after = write_memory(state, keys, values, **gates, chunk_size=4, step_rule="normalized")
    for matrix in after.tensors:
        assert (matrix.norm(dim=(-2, -1)) <= norm_bound(matrix) * (1 + 1e-5)).all()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("step_rule", ["paper", "normalized"])
def test_writing_leaves_no_tiny_entries(step_rule, gradients):
    state = make_state(2, dtype=torch.float32).map(lambda tensor: 1e-34 * tensor)
    _, keys, values, gates = make_tokens(8, dtype=torch.float32)
    with torch.set_grad_enabled(gradients):
        after = write_memory(state, keys, 0 * values, **gates, chunk_size=4, step_rule=step_rule)
    assert not any(matrix.any() for matrix in after.tensors)


def test_ten_thousand_turns_in_short(monkeypatch):
    """The script streams ten thousand; here are some hundred of the same kinds."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    stream = runpy.run_path(str(BENCHMARKS / "stability.py"))["stream"]
    linear = {"feature_map": "identity", "step_bound": "token"}
    for memory in ({}, {"read": "chunk"}, {"depth": 2}, linear, {"depth": 2, "step_bound": "gram"}):
        rows = stream(160, 40, every=80, **memory)
        assert rows[-1]["turns"] == 160
        assert rows[-1]["largest norm / bound"] <= 1.0 + 1e-5


@pytest.mark.parametrize("gate", [0.0, 1.0])
@pytest.mark.parametrize("name", ["forget", "momentum", "step"])
def test_saturated_gates_give_finite_numbers(name, gate):
    state = make_state(2, dtype=torch.float32)
    _, keys, values, gates = make_tokens(21, dtype=torch.float32)
    gates[name] = torch.full_like(gates[name], gate)
    # With the largest step the plain equation diverges on such keys, by nature.
    for step_rule in ("normalized",) if (name, gate) == ("step", 1.0) else ("normalized", "paper"):
        after = write_memory(state, keys, values, **gates, chunk_size=4, step_rule=step_rule)
        assert all(tensor.isfinite().all() for tensor in after.tensors)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    tokens=st.integers(0, 13),
    chunk_size=st.integers(1, 8),
    depth=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    saturated=st.tuples(*[st.sampled_from([0.0, 1e-30, 1e-8, 0.5, 1 - 1e-7, 1.0, None])] * 3),
    holes=st.floats(0, 1),
)
def test_the_closed_form_is_the_recurrence_for_any_gates_and_masks(tokens, chunk_size, depth, seed, saturated, holes):
    state = make_state(depth, seed=seed)
    queries, keys, values, gates = make_tokens(tokens, seed=seed)
    gates |= {n: torch.full_like(gates[n], g) for n, g in zip(gates, saturated) if g is not None}
    gates["step"] = 0.1 * gates["step"]
    mask = torch.rand(STREAMS, tokens, generator=torch.Generator().manual_seed(seed)) >= holes
    rule = {"mask": mask, "chunk_size": chunk_size, "step_rule": "normalized"}
    _, expected = oracle(state, queries, keys, values, gates, **rule)
    assert_equal_states(write_memory(state, keys, values, **gates, **rule), expected)


def test_a_strong_forget_gate_leaves_no_denormals():
    """Products of numbers below 1e-38 are ten times slower."""
    state = make_state(2, dtype=torch.float32)
    _, keys, values, gates = make_tokens(64, dtype=torch.float32)
    gates |= {"forget": torch.full_like(gates["forget"], 0.9), "momentum": torch.full_like(gates["momentum"], 0.1)}
    for _ in range(20):
        state = write_memory(state, keys, values, **gates, chunk_size=64, step_rule="normalized")
        for tensor in state.tensors:
            assert not ((tensor != 0) & (tensor.abs() < torch.finfo(torch.float32).tiny)).any()


# --- The plain equation


def diverging(read="history"):
    """A model whose memory the plain equation blows up."""
    model = tiny_model({"step_rule": "paper", "layers": [0], "read": read})
    layer = model.titans_memory.layers[0]
    with torch.no_grad():
        layer.write_gates.weight.zero_()
        layer.write_gates.bias.copy_(torch.tensor([-9.0, 9.0, 9.0]).repeat_interleave(2))
    return model


@pytest.mark.parametrize("read", ["history", "chunk"])
@torch.no_grad()
def test_a_memory_that_diverges_keeps_its_last_good_state(read, caplog):
    model, ids = diverging(read), [801, 802] if read == "history" else [803, 804]  # each is warned of once
    cache = ConversationMemoryCache(model.config, batch_size=2)
    for seed in range(10):
        output = model(**tiny_turns(2, seed=seed), memory_cache=cache, conversation_ids=ids)
        assert output.logits.isfinite().all()
        assert cache.layers[0].state.is_within_bounds().all()
    messages = {record.message for record in caplog.records if "diverged" in record.message}
    assert messages
    assert all("The memory of conversation" in message for message in messages)
    assert len([r for r in caplog.records if "diverged" in r.message]) == len(messages)  # once for each


@torch.no_grad()
def test_the_conversation_that_diverged_is_named(caplog):
    """Where turns of one call are processed in another order than that of its rows."""
    model = diverging()
    turns = tiny_turns(13, frames=[40] * 12 + [4])  # the last of them is too short to diverge
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=cache, conversation_ids=[701] * 12 + [702])
    messages = {record.message for record in caplog.records if "diverged" in record.message}
    assert len(messages) == 1
    assert "The memory of conversation 701 diverged" in messages.pop()


@pytest.mark.parametrize("read", ["history", "chunk"])
def test_gradients_are_finite_where_a_turn_is_rejected(read):
    model = diverging(read).train()
    loss = model(**tiny_turns(6), conversation_ids=[1] * 6, emotion_labels=[0, 1, 2, 3, 0, 1]).loss
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@torch.no_grad()
def test_a_turn_that_would_diverge_reads_the_same_unwritten():
    model, turns = diverging("chunk"), tiny_turns(1, frames=[120])
    cache = ConversationMemoryCache(model.config)
    silent = model(**turns, memory_cache=cache, update_memory=False).emotion_logits
    assert torch.equal(silent, model(**turns, memory_cache=cache).emotion_logits)


@torch.no_grad()
def test_a_diverging_memory_does_not_affect_others():
    """Nor in other streams of the call, and not in later turns of its own."""
    model = diverging()
    turns = tiny_turns(12)
    together = model(**turns, conversation_ids=[0] * 6 + [1] * 6)
    assert together.logits.isfinite().all()
    alone = model(**{name: tensor[6:] for name, tensor in turns.items()}, conversation_ids=[1] * 6)
    torch.testing.assert_close(together.emotion_logits[6:], alone.emotion_logits, rtol=0, atol=1e-4)
