import pytest
import torch
from tiny_models import tiny_config, tiny_model, tiny_processor, tiny_turns
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from titans_mal import AutoModelForAudioEmotion, Qwen2AudioMALConfig, Qwen2AudioMALForAudioEmotion, TitansMemoryConfig


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("auto", [AutoModelForAudioEmotion, AutoModelForMultimodalLM, AutoModel])
def test_every_auto_class_loads_the_model(auto, checkpoint):
    model = auto.from_pretrained(checkpoint)
    assert type(model) is Qwen2AudioMALForAudioEmotion
    with torch.no_grad():
        expected = tiny_model()(**tiny_turns(1)).emotion_logits
        assert torch.equal(model(**tiny_turns(1)).emotion_logits, expected)


def test_the_processor_is_the_hosts(checkpoint):
    assert type(AutoProcessor.from_pretrained(checkpoint)).__name__ == "Qwen2AudioProcessor"


def test_configs_are_known(checkpoint):
    assert isinstance(AutoConfig.from_pretrained(checkpoint), Qwen2AudioMALConfig)
    assert isinstance(AutoConfig.for_model("titans_memory"), TitansMemoryConfig)


def test_from_config():
    assert type(AutoModelForAudioEmotion.from_config(tiny_config())) is Qwen2AudioMALForAudioEmotion


def test_loading_passes_keywords_on(checkpoint):
    model, info = AutoModelForAudioEmotion.from_pretrained(
        checkpoint, dtype=torch.bfloat16, attn_implementation="eager", output_loading_info=True
    )
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
