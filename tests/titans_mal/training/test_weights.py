"""What a checkpoint holds comes back into the model that is trained, or is refused."""

import pytest
import torch
from tiny_models import LABELS, save_base

from titans_mal import AutoModelForAudioEmotion, TitansMemoryConfig
from titans_mal.training import choose_trained_parts
from titans_mal.training.weights import load_trained_weights


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Makes a model of a base, with a LoRA or without."""
    base = tmp_path_factory.mktemp("base")
    save_base(base)

    def adapter(**lora):
        memory = TitansMemoryConfig(layers=[0], num_heads=2, head_dim=8, chunk_size=4)
        model = AutoModelForAudioEmotion.from_base(base, id2label=dict(enumerate(LABELS)), memory_config=memory)
        choose_trained_parts(model, **lora)
        return model

    return adapter


def trained(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_memory_and_lora_are_restored(adapter, tmp_path):
    saved, fresh = adapter(lora_rank=2), adapter(lora_rank=2)
    with torch.no_grad():
        for parameter in trained(saved).values():
            parameter.add_(1.0)
    saved.save_pretrained(tmp_path)
    load_trained_weights(fresh, tmp_path)
    torch.testing.assert_close(trained(fresh), trained(saved), rtol=0, atol=0)


def test_a_lora_of_another_rank_is_rejected(adapter, tmp_path):
    adapter(lora_rank=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has a different rank or different layers .*\(.*lora_A"):
        load_trained_weights(adapter(lora_rank=3), tmp_path)
    with pytest.raises(ValueError, match=r"has a different rank or different layers .*\(.*audio_tower"):
        load_trained_weights(adapter(lora_rank=2, lora_on_audio_tower=True), tmp_path)
    with pytest.raises(ValueError, match=r"has lora_alpha 4, but the model's is 16"):
        load_trained_weights(adapter(lora_rank=2, lora_alpha=16), tmp_path)


def test_trained_weights_must_exist(adapter, tmp_path):
    adapter().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no LoRA, but the model has one, 'default'"):
        load_trained_weights(adapter(lora_rank=2), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks \d+ of the trained weights \(titans_memory"):
        load_trained_weights(adapter(), tmp_path)
