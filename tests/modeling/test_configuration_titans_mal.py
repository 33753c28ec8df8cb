import pytest
from tiny_models import LABELS, host_config, tiny_config

from titans_mal import Qwen2AudioMALConfig, TitansMemoryConfig


@pytest.mark.parametrize("field", ["layers", "step_rule", "initial_step", "x" * 100_000])
def test_errors_do_not_repeat_long_values(field):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        TitansMemoryConfig(**{field: "x" * 100_000})
    with pytest.raises(ValueError) as of_model:  # noqa: PT011
        tiny_config(emotion_readout="x" * 100_000)
    assert max(len(str(raised.value)), len(str(of_model.value))) < 1200


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


@pytest.mark.parametrize("field", ["adapter_only", "has_lora"])
def test_flags_are_true_or_false(field):
    with pytest.raises(ValueError, match=f"{field} must be True or False, got 'no'"):
        tiny_config(**{field: "no"})


def test_a_changed_memory_is_checked_again():
    config = tiny_config()
    config.memory_config.chunk_size = 0
    with pytest.raises(ValueError, match="chunk_size must be an integer of at least 1, got 0"):
        config.check()


def test_round_trip(tmp_path):
    config = tiny_config({"scope": "speaker", "max_speakers": 3, "depth": 3})
    config.save_pretrained(tmp_path)
    loaded = Qwen2AudioMALConfig.from_pretrained(tmp_path)
    assert isinstance(loaded.memory_config, TitansMemoryConfig)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.labels == list(LABELS)
    assert loaded.label2id == {label: index for index, label in enumerate(LABELS)}


def test_a_memory_configuration_may_be_used_for_several_models():
    memory = TitansMemoryConfig(layers=[0], voice_layers=[0])
    configs = [
        Qwen2AudioMALConfig(**host_config(), memory_config=memory, id2label=dict(enumerate("abcdefg"[:count])))
        for count in (4, 7)
    ]
    assert [config.memory_config.voice_emotions for config in configs] == [4, 7]
    ratings = {"emotion_readout": None, "emotion_dimensions": ["valence"], "id2label": {}}
    assert Qwen2AudioMALConfig(**host_config(), memory_config=memory, **ratings).memory_config.voice_emotions == 1
    assert memory.voice_emotions == 1


def test_the_hosts_fields_are_kept():
    config = tiny_config()
    assert config.get_text_config(decoder=True).hidden_size == host_config()["text_config"]["hidden_size"]
    assert config.audio_token_id == host_config()["audio_token_index"]
    assert config.model_type == "qwen2_audio_mal"


def test_prompt_names_the_labels():
    config = tiny_config(emotion_prompt="One of {labels}?")
    assert config.prompt_text() == "One of neutral, happy, sad, angry?"


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
