"""What trains and what does not, for every host."""

import pytest
import torch
from tiny_hosts import HOSTS
from tiny_models import tiny_model

from titans_mal.training import choose_trained_parts, trained_parameters


@pytest.fixture(params=HOSTS)
def adapter(request):
    """A model that is saved as an adapter, as `from_base` makes it."""
    model = HOSTS[request.param].model()
    model.config.adapter_only = True
    return model


def lora_layers(model) -> list[str]:
    return [name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name]


def test_memory_and_readout_alone():
    model = tiny_model(emotion_readout="linear", label_token_ids=None)
    choose_trained_parts(model)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"titans_memory", "emotion_head"}
    counts = trained_parameters(model)
    assert counts["memory"] == model.titans_memory.num_parameters()
    assert counts["readout"] == 4 * 32 + 4
    assert sum(counts.values()) == model.num_parameters()
    assert counts["lora"] == counts["host"] == 0


def test_a_lora_is_on_every_block_and_on_nothing_else(adapter):
    choose_trained_parts(adapter, lora_rank=2, lora_dropout=0.1)
    decoder = next(name for name, module in adapter.named_modules() if module is adapter.get_decoder())
    on = lora_layers(adapter)
    assert on
    assert all(name.startswith(f"{decoder}.layers.") for name in on)
    blocks = {name.removeprefix(f"{decoder}.layers.").split(".")[0] for name in on}
    assert blocks == {str(number) for number in range(len(adapter.get_decoder().layers))}
    assert any("attn" in name or "attention" in name for name in on)
    for name, parameter in adapter.named_parameters():
        assert parameter.requires_grad == (name.startswith("titans_memory") or ".lora_" in name), name
    assert trained_parameters(adapter)["lora"] > 0


def test_a_lora_on_the_audio_tower_is_asked_for(adapter):
    choose_trained_parts(adapter, lora_rank=2, lora_on_audio_tower=True)
    decoder = next(name for name, module in adapter.named_modules() if module is adapter.get_decoder())
    outside = [name for name in lora_layers(adapter) if not name.startswith(f"{decoder}.layers.")]
    assert outside
    assert not any(name.startswith(("titans_memory", "lm_head")) or "image" in name for name in outside)


def test_a_lora_is_float32_whatever_the_host_is():
    model = tiny_model().to(torch.bfloat16)
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_a_lora_that_was_loaded_goes_on_training():
    model = tiny_model()
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    before = trained_parameters(model)
    model.requires_grad_(False)
    choose_trained_parts(model)
    assert trained_parameters(model) == before
    with pytest.raises(ValueError, match=r"carries the LoRA \['default'\] already"):
        choose_trained_parts(model, lora_rank=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"lora_alpha": 8.0}, "need a lora_rank"),
        ({"lora_on_audio_tower": True}, "need a lora_rank"),
        ({"lora_rank": 4}, "saved in full cannot carry a LoRA"),
    ],
)
def test_what_is_refused_changes_nothing(options, message):
    model = tiny_model()
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        choose_trained_parts(model, **options)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
