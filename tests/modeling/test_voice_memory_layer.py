"""The memory of voices, against its equations turn by turn in float64."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model, tiny_turns
from torch import Tensor

from titans_mal import ConversationMemoryCache
from titans_mal.modeling.configuration_titans_memory import TitansMemoryConfig
from titans_mal.modeling.memory_state import norm_bound
from titans_mal.modeling.model_identity import state_identity
from titans_mal.modeling.titans_memory_layer import TitansMemory
from titans_mal.modeling.voice_memory_layer import VoiceMemoryLayer


HIDDEN = 7


def make_layer(seed: int = 0, **fields) -> VoiceMemoryLayer:
    """A layer in float64 whose every parameter is drawn."""
    given = {"layers": [0], "voice_layers": [0], "voice_key_dim": 3, "voice_emotions": 4, **fields}
    layer = TitansMemory(TitansMemoryConfig(**given), HIDDEN).layers[0].double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        layer.voice_scale.abs_().add_(0.5)
    return layer


def hidden_of(rows: int, tokens: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(rows, tokens, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected_residuals(layer: VoiceMemoryLayer, turns: list[Tensor]) -> list[Tensor]:
    """The docstring's equations, one turn of one stream after the other; each turn (tokens, hidden)."""
    config = layer.config
    theta, offset = config.voice_step, config.voice_key_offset
    written: list[tuple[Tensor, Tensor]] = []  # of each turn a = l2(A h + b), and the error that was written
    residuals = []
    for turn in turns:
        h = (turn.mean(0) - layer.voice_mean) / layer.voice_scale
        probabilities = torch.softmax(layer.emotion_proj.weight @ h + layer.emotion_proj.bias, 0)
        value = torch.cat([h - probabilities @ layer.emotion_means, h.new_ones(1)])
        a = layer.speaker_proj.weight @ h + layer.speaker_proj.bias
        a = a / a.norm() * (config.scope == "conversation")
        recalled = torch.zeros(HIDDEN + 1, dtype=torch.float64)
        for other, error in written:
            most = float(a.norm() + offset)
            recalled += theta * float(((a @ other + offset) / most) ** 2) * error
        written.append((a, value - recalled))
        known = recalled[-1].clamp(min=0)
        residuals.append(
            -layer.voice_gain * layer.voice_scale * recalled[:-1] / (known + theta * config.voice_shrinkage)
        )
    return residuals


@pytest.mark.parametrize("scope", ["conversation", "speaker"])
@pytest.mark.parametrize("fields", [{}, {"voice_step": 0.6, "voice_key_offset": 2.0, "voice_shrinkage": 3.0}])
@torch.no_grad()
def test_the_layer_matches_its_equations(scope: str, fields: dict):
    layer = make_layer(scope=scope, **fields)
    lengths = torch.tensor([5, 3, 4, 1, 2, 5])
    hidden = hidden_of(6)
    # Two streams of three turns each: rows are turn by turn.
    output = layer(hidden, layer.initial_state(2), lengths=lengths, batch_sizes=[2, 2, 2])
    for stream in range(2):
        rows = [stream, stream + 2, stream + 4]
        expected = expected_residuals(layer, [hidden[row, : lengths[row]] for row in rows])
        for row, wanted in zip(rows, expected):
            torch.testing.assert_close(output.residual[row, : lengths[row]], wanted.expand(int(lengths[row]), -1))
            assert not output.residual[row, lengths[row] :].any()


@torch.no_grad()
def test_turns_of_one_call_equal_calls_of_one_turn():
    layer, hidden = make_layer(), hidden_of(5)
    together = layer(hidden, layer.initial_state(2), batch_sizes=[2, 2, 1])
    state, rows = layer.initial_state(2), []
    for start, count in ((0, 2), (2, 2), (4, 1)):
        output = layer(hidden[start : start + count], state[:count])
        rows.append(output.residual)
        state = output.state
    torch.testing.assert_close(torch.cat(rows), together.residual)
    torch.testing.assert_close(together.state.weights[0][:1], state.weights[0])


@torch.no_grad()
def test_an_empty_memory_adds_exactly_nothing_and_reading_writes_nothing():
    layer, hidden = make_layer(), hidden_of(3)
    empty = layer.initial_state(3)
    output = layer(hidden, empty, write=False)
    assert not output.residual.any()
    assert output.state.weights[0].equal(empty.weights[0])
    assert layer(hidden, empty).state.weights[0].any()


@torch.no_grad()
def test_a_turn_without_audio_is_neither_written_nor_changed():
    layer, hidden = make_layer(), hidden_of(3)
    before = layer(hidden[:1], layer.initial_state(1)).state
    output = layer(hidden[1:2], before, lengths=torch.tensor([0]))
    assert not output.residual.any()
    assert output.surprise.isnan().all()
    torch.testing.assert_close(output.state.weights[0], before.weights[0], rtol=0, atol=0)


@torch.no_grad()
def test_the_recalled_voice_stays_bounded_over_a_long_call():
    layer = make_layer(voice_step=0.9)
    state = layer.initial_state(1)
    for turn in range(300):
        output = layer(100 * hidden_of(1, seed=turn % 3), state)
        state = output.state
    assert torch.linalg.vector_norm(state.weights[0]) <= norm_bound(state.weights[0]) * (1 + 1e-9)
    assert output.residual.isfinite().all()


@torch.no_grad()
def test_a_new_layer_adds_nothing_and_is_frozen():
    memory = TitansMemory(TitansMemoryConfig(layers=[0, 1], voice_layers=[1]), HIDDEN)
    voice = memory.layers[1].double()
    state = voice(hidden_of(2), voice.initial_state(2)).state
    assert not voice(hidden_of(2, seed=2), state).residual.any()
    assert all(parameter.requires_grad for parameter in memory.layers[0].parameters())
    memory.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in voice.parameters())


@torch.no_grad()
def test_gradients_reach_the_host_through_the_recalled_voice():
    layer, hidden = make_layer(), hidden_of(2).requires_grad_()
    with torch.enable_grad():
        layer(hidden, layer.initial_state(1), batch_sizes=[1, 1]).residual[1].sum().backward()
    assert hidden.grad[0].any()


def test_voice_layers_are_checked():
    assert TitansMemoryConfig(layers=(0, 3), voice_layers=(3,)).voice_layers == [3]
    for wrong in ([1], [3, 0], [0, 0], [[0]], "0", 0):
        with pytest.raises(ValueError, match="voice_layers must be a list and a subset of layers"):
            TitansMemoryConfig(layers=[0, 3], voice_layers=wrong)
    for name, value in (("voice_key_dim", 0), ("voice_key_offset", 0), ("voice_step", 1), ("voice_shrinkage", 0)):
        with pytest.raises(ValueError, match=name):
            TitansMemoryConfig(layers=[0], voice_layers=[0], **{name: value})


@torch.no_grad()
def test_a_state_belongs_to_the_voices_that_wrote_it(tmp_path):
    memory = {"layers": [0], "voice_layers": [0], "voice_key_dim": 4}
    model = tiny_model(memory)
    cache = ConversationMemoryCache(model.config)
    model(**tiny_turns(1), memory_cache=cache)
    cache.save_pretrained(tmp_path)
    again = ConversationMemoryCache.from_pretrained(tmp_path, model.config)
    assert again.layers[0].weights[0].equal(cache.layers[0].weights[0])
    for other in ({"voice_step": 0.2}, {"voice_key_dim": 5}, {"voice_layers": []}):
        with pytest.raises(ValueError, match="different models"):
            ConversationMemoryCache.from_pretrained(tmp_path, tiny_model({**memory, **other}).config)


def test_voice_fields_do_not_matter_without_voice_layers():
    without = [state_identity(tiny_model({"voice_step": step}).config) for step in (0.1, 0.2)]
    assert without[0] == without[1]
