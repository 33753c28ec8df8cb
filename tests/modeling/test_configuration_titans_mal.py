import json

import pytest
from tiny_models import LABELS, host_config, tiny_config

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
        ("layers", None, "layers must be a non-empty list .* got None"),
        ("forget_half_life", 1, "forget_half_life must be between 1 and inf"),
        ("forget_half_life", float("nan"), "forget_half_life must be between 1 and inf"),
        ("forget_half_life", float("inf"), "forget_half_life must be between 1 and inf"),
        ("forget_half_life", "80 s", "forget_half_life must be between 1 and inf"),
        ("initial_momentum", 1.0, "initial_momentum must be between 0 and 1"),
        ("initial_step", 0.0, "initial_step must be between 0 and 1"),
    ],
)
def test_a_memory_config_is_checked_when_it_is_built(field, value, message):
    with pytest.raises(ValueError, match=message):
        TitansMemoryConfig(**{field: value})


@pytest.mark.parametrize("field", ["layers", "step_rule", "initial_step", "x" * 100_000])
def test_errors_do_not_repeat_long_values(field):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        TitansMemoryConfig(**{field: "x" * 100_000})
    with pytest.raises(ValueError) as of_model:  # noqa: PT011
        tiny_config(emotion_readout="x" * 100_000)
    assert max(len(str(raised.value)), len(str(of_model.value))) < 1200


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


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"emotion_readout": "regression"}, "emotion_readout must be one of"),
        ({"id2label": {1: "sad", 2: "happy"}}, r"id2label must number the labels 0, 1, .* \{1: 'sad', 2"),
        ({"id2label": {0: "sad", 1: "sad"}}, "must not repeat a label"),
        ({"label_token_ids": [3, 3, 4, 5]}, "label_token_ids must hold a different token"),
        ({"label_token_ids": [3, 4]}, "label_token_ids must hold a different token"),
        ({"memory": {"chunk_size": 0}}, "chunk_size"),
    ],
)
def test_a_host_config_is_checked_when_it_is_built(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_round_trip(tmp_path):
    config = tiny_config({"scope": "speaker", "max_speakers": 3, "depth": 3})
    config.save_pretrained(tmp_path)
    loaded = Qwen2AudioMALConfig.from_pretrained(tmp_path)
    assert isinstance(loaded.memory_config, TitansMemoryConfig)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.labels == list(LABELS)
    assert loaded.label2id == {label: index for index, label in enumerate(LABELS)}


def test_the_hosts_fields_are_kept():
    config = tiny_config()
    assert config.get_text_config(decoder=True).hidden_size == host_config()["text_config"]["hidden_size"]
    assert config.audio_token_id == host_config()["audio_token_index"]
    assert config.model_type == "qwen2_audio_mal"


def test_memory_shapes():
    config = TitansMemoryConfig(head_dim=16, depth=3, expansion=2)
    assert config.matrix_shapes() == [(16, 32), (32, 32), (32, 16)]
    assert TitansMemoryConfig(depth=1, expansion=2).matrix_shapes() == [(136, 16)]


def test_prompt_names_the_labels():
    config = tiny_config(emotion_prompt="One of {labels}?")
    assert config.prompt_text() == "One of neutral, happy, sad, angry?"


def test_an_unknown_field_is_rejected():
    with pytest.raises(ValueError, match=r"TitansMemoryConfig has no \['layer'\]; it has \[.*'layers'"):
        TitansMemoryConfig(layer=[3])
    again = TitansMemoryConfig.from_dict(TitansMemoryConfig(layers=[3]).to_dict())
    assert again.layers == [3]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id2label", ["neutral", "happy"], "id2label must number the labels"),
        ("id2label", {"a": "neutral"}, "id2label must number the labels"),
        ("id2label", {0: "neutral", 1: 5}, "id2label must number the labels"),
        ("id2label", {0: ""}, "id2label must number the labels"),
        ("id2label", "neutral", "id2label must number the labels"),
        ("memory_config", [1], "memory_config must be a TitansMemoryConfig or its dict, got list"),
        ("memory_config", "deep", "memory_config must be a TitansMemoryConfig or its dict, got str"),
        ("memory_config", {"depth": 10**6}, "depth must be an integer of at most 64"),
        ("memory_config", {"head_dim": 10**9}, "head_dim must be an integer of at most"),
        ("memory_config", {"num_heads": 10**400}, "num_heads must be an integer of at most"),
        ("memory_config", {"depth": "x" * 5_000_000}, "depth must be an integer of at least 1"),
        ("label_token_ids", [1, 2, 3, -4], "label_token_ids must hold a different token"),
        ("label_token_ids", [1, 2, 3, 10**9], "label_token_ids must hold a different token"),
        ("label_token_ids", [1, 2, 3, "4"], "label_token_ids must hold a different token"),
        ("label_token_ids", 5, "label_token_ids must hold a different token"),
        ("emotion_prompt", ["{labels}"], "emotion_prompt must be text"),
    ],
)
def test_invalid_files_raise_one_type_of_error(field, value, message):
    fields = {"id2label": dict(enumerate(LABELS)), "emotion_prompt": "emotion ?", field: value}
    with pytest.raises(ValueError, match=message) as error:
        Qwen2AudioMALConfig(**host_config(), **fields)
    assert len(str(error.value)) < 500
