import json

import pytest
from tiny_models import host_config

from titans_mal import Qwen2AudioMALConfig, TitansMemoryConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", [], "layers must be a non-empty list"),
        ("layers", [-1], "layers must be a non-empty list"),
        ("layers", [0.5], "layers must be a non-empty list"),
        ("layers", [2, 1], "strictly increasing"),
        ("layers", [1, 1], "strictly increasing"),
        ("num_heads", 0, "num_heads must be an integer of at least 1, got 0"),
        ("head_dim", 8.5, "head_dim must be an integer"),
        ("depth", True, "depth must be an integer"),
        ("expansion", -1, "expansion must be an integer"),
        ("chunk_size", 0, "chunk_size must be an integer"),
        ("max_speakers", 0, "max_speakers must be an integer"),
        ("read", "later", "read must be one of .*'history', 'chunk'.* got 'later'"),
        ("step_rule", "sgd", "step_rule must be one of"),
        ("step_bound", "tight", "step_bound must be one of .*'token', 'gram'.* got 'tight'"),
        ("feature_map", "cubic", "feature_map must be one of .*'identity', 'quadratic'.* got 'cubic'"),
        ("scope", "room", "scope must be one of"),
        ("layers", 3, "layers must be a non-empty list .* got 3"),
        ("voice_layers", [False], "voice_layers must be a list and a subset"),
        ("layers", None, "layers must be a non-empty list .* got None"),
        ("forget_half_life", 1, "forget_half_life must be between 1 and inf"),
        ("forget_half_life", float("nan"), "forget_half_life must be between 1 and inf"),
        ("forget_half_life", float("inf"), "forget_half_life must be between 1 and inf"),
        ("forget_half_life", "80 s", "forget_half_life must be between 1 and inf"),
        ("initial_momentum", 1.0, "initial_momentum must be between 0 and 1"),
        ("head_dim", 10**9, "head_dim must be an integer of at most 8192"),
        ("num_heads", 10**400, "num_heads must be an integer of at most 1024"),
        ("depth", "x" * 5_000_000, "depth must be an integer of at least 1"),
        ("initial_step", 0.0, "initial_step must be between 0 and 1"),
    ],
)
def test_a_memory_config_is_checked_when_it_is_built(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        TitansMemoryConfig(**{field: value})
    assert len(str(error.value)) < 500


def test_the_plain_step_has_no_bound():
    with pytest.raises(ValueError, match=r"step_bound='gram' needs step_rule='normalized', got 'paper'"):
        TitansMemoryConfig(step_rule="paper", step_bound="gram")


def test_quadratic_features_widen_the_first_matrix():
    shapes = TitansMemoryConfig(head_dim=4, depth=2, expansion=3, feature_map="quadratic").matrix_shapes()
    assert shapes == [(10, 12), (12, 4)]
    assert TitansMemoryConfig(head_dim=4, feature_map="identity").matrix_shapes() == [(4, 4)]


@pytest.mark.parametrize(
    ("fields", "keys", "bound"),
    [
        ({}, "quadratic", "gram"),
        ({"step_rule": "paper"}, "quadratic", "token"),
        ({"depth": 2}, "identity", "token"),
        ({"depth": 2, "feature_map": "quadratic", "step_bound": "gram"}, "quadratic", "gram"),
        ({"feature_map": "identity", "step_bound": "token"}, "identity", "token"),
    ],
)
def test_keys_and_step_are_those_of_the_evidence_unless_given(fields, keys, bound, tmp_path):
    """And a saved configuration keeps them, by itself and within that of a host."""
    config = TitansMemoryConfig(**fields)
    assert (config.feature_map, config.step_bound) == (keys, bound)
    config.save_pretrained(tmp_path / "memory")
    assert TitansMemoryConfig.from_pretrained(tmp_path / "memory").to_dict() == config.to_dict()
    of_host = Qwen2AudioMALConfig(**host_config(), memory_config=config, emotion_readout="linear")
    of_host.save_pretrained(tmp_path)
    assert Qwen2AudioMALConfig.from_pretrained(tmp_path).to_dict() == of_host.to_dict()
    saved = json.loads((tmp_path / "config.json").read_text())["memory_config"]
    assert {"head_dim", "feature_map", "step_bound"} <= set(saved)


def test_a_file_of_the_first_version_keeps_its_defaults(tmp_path):
    """It has only the fields that differed from the defaults of its time."""
    first = {"model_type": "titans_memory", "layers": [1]}
    (tmp_path / "config.json").write_text(json.dumps(first))
    of_host = Qwen2AudioMALConfig(**host_config(), memory_config=first, emotion_readout="linear").memory_config
    for config in (TitansMemoryConfig.from_pretrained(tmp_path), of_host):
        assert (config.layers, config.head_dim) == ([1], 64)
        assert (config.feature_map, config.step_bound) == ("identity", "token")


def test_memory_shapes():
    config = TitansMemoryConfig(head_dim=16, depth=3, expansion=2)
    assert config.matrix_shapes() == [(16, 32), (32, 32), (32, 16)]
    assert TitansMemoryConfig(depth=1, expansion=2).matrix_shapes() == [(136, 16)]


def test_an_unknown_field_is_rejected():
    with pytest.raises(ValueError, match=r"TitansMemoryConfig has no \['layer'\]; it has \[.*'layers'"):
        TitansMemoryConfig(layer=[3])
    again = TitansMemoryConfig.from_dict(TitansMemoryConfig(layers=[3]).to_dict())
    assert again.layers == [3]
