"""What trains and what does not, for every host."""

import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_hosts import HOSTS
from tiny_models import LABELS, save_base, tiny_model

from titans_mal import AutoModelForAudioEmotion
from titans_mal.training import choose_trained_parts, freeze_before_voice_memory, trained_parameters


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


def test_a_lora_on_the_audio_tower_is_optional(adapter):
    choose_trained_parts(adapter, lora_rank=2, lora_on_audio_tower=True)
    decoder = next(name for name, module in adapter.named_modules() if module is adapter.get_decoder())
    outside = [name for name in lora_layers(adapter) if not name.startswith(f"{decoder}.layers.")]
    assert outside
    assert not any(name.startswith(("titans_memory", "lm_head")) or "image" in name for name in outside)


@pytest.mark.parametrize("on_audio_tower", [False, True])
@pytest.mark.parametrize("name", HOSTS)
def test_a_lora_is_trained_only_after_a_voice_memory(name, on_audio_tower):
    model = HOSTS[name].model(memory_config={"layers": [0, 1], "voice_layers": [0], "voice_key_dim": 1})
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2, lora_on_audio_tower=on_audio_tower)
    freeze_before_voice_memory(model)
    blocks = f"{next(name for name, module in model.named_modules() if module is model.get_decoder())}.layers."
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad and ".lora_" in name}
    assert trained
    assert all(name.startswith(blocks) and not name.startswith(f"{blocks}0.") for name in trained)
    everything = {name for name, _ in model.named_parameters() if ".lora_" in name and name.startswith(f"{blocks}1.")}
    assert everything <= trained


def test_parts_that_are_not_trained_at_all_are_named():
    last = len(tiny_model().get_decoder().layers) - 1
    model = tiny_model({"layers": [0, last], "voice_layers": [last], "voice_key_dim": 1})
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    assert trained_parameters(model)["memory"] > 0
    message = rf"the memories on blocks \[0\] and the LoRA, since the memory of voices on block {last}"
    with pytest.warns(UserWarning, match=message):
        freeze_before_voice_memory(model)
    assert trained_parameters(model)["memory"] == trained_parameters(model)["lora"] == 0


def test_without_a_voice_memory_the_whole_lora_is_trained():
    model = tiny_model()
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    before = trained_parameters(model)
    freeze_before_voice_memory(model)
    assert trained_parameters(model) == before


def test_a_lora_is_float32_whatever_the_host_is():
    model = tiny_model().to(torch.bfloat16)
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_a_loaded_lora_is_trained_further():
    model = tiny_model()
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    before = trained_parameters(model)
    model.requires_grad_(False)
    choose_trained_parts(model)
    assert trained_parameters(model) == before
    with pytest.raises(ValueError, match=r"already has the LoRA \['default'\]"):
        choose_trained_parts(model, lora_rank=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 0}, "rank of a LoRA must be at least 1, got 0"),
        ({"lora_alpha": 8.0}, "need its rank"),
        ({"lora_on_audio_tower": True}, "need its rank"),
        ({"lora_rank": 4, "lora_alpha": 0.0}, "alpha of a LoRA must be above 0, got 0"),
        ({"lora_rank": 4, "lora_dropout": 1.0}, "at least 0 and below 1, got 1"),
        ({"lora_rank": 4}, "saved in full cannot have a LoRA"),
    ],
)
def test_rejected_options_change_nothing(options, message):
    model = tiny_model()
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        choose_trained_parts(model, **options)
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def forbidden() -> dict[str, LoraConfig]:
    """Adapters that would be on memory or readout."""
    return {
        "all": LoraConfig(r=2, target_modules="all-linear"),
        "a projection by name": LoraConfig(r=2, target_modules=["q_proj", "value_proj"]),
        "a pattern": LoraConfig(r=2, target_modules=r".*(k_proj|key_proj)"),
        "a module that is saved": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["titans_memory"]),
        "the readout": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["emotion_head"]),
    }


@pytest.mark.parametrize("name", forbidden())
def test_an_adapter_on_memory_or_readout_is_rejected_before_anything_changes(name):
    model = tiny_model(emotion_readout="linear", label_token_ids=None)
    model.config.adapter_only = True
    before = [key for key, _ in model.named_modules()]
    with pytest.raises(ValueError, match="which is trained and saved on its own: restrict target_modules"):
        model.add_adapter(forbidden()[name])
    assert [key for key, _ in model.named_modules()] == before
    assert not model.added_adapters


def test_all_linear_layers_but_those_of_the_memory():
    model = tiny_model()
    model.config.adapter_only = True
    model.add_adapter(LoraConfig(r=2, target_modules="all-linear", exclude_modules=r"(titans_memory|emotion_head).*"))
    assert lora_layers(model)
    assert not any(name.startswith("titans_memory") for name in lora_layers(model))


def wrapped(**config):
    model = tiny_model()
    model.config.adapter_only = True
    choose_trained_parts(model)
    return get_peft_model(model, LoraConfig(r=2, **config))


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["titans_memory"]},
        {"target_modules": "all-linear"},
    ],
)
def test_a_peft_wrapper_is_rejected_at_the_start(config, trainer_of):
    with pytest.raises(ValueError, match=r"PeftModel saves its adapter without the memory: .* model.add_adapter"):
        choose_trained_parts(wrapped(**config))
    with pytest.raises(ValueError, match=r"PeftModel saves its adapter without the memory: .* model.add_adapter"):
        trainer_of(wrapped(**config))


def test_an_adapter_on_the_memory_is_rejected_at_the_start(trainer_of):
    inner = wrapped(target_modules="all-linear").base_model.model
    for refuse in (choose_trained_parts, trainer_of):
        with pytest.raises(ValueError, match=r"A PEFT adapter targets \['titans_memory'\]"):
            refuse(inner)


def test_trainable_parameters_are_printed_as_by_peft(capsys):
    model = tiny_model()
    model.config.adapter_only = True
    choose_trained_parts(model, lora_rank=2)
    trained, total = model.get_nb_trainable_parameters()
    parts = trained_parameters(model)
    assert (trained, total) == (parts["memory"] + parts["lora"], model.num_parameters())
    model.print_trainable_parameters()
    share = f"{100 * trained / total:.4f}"
    expected = f"trainable params: {trained:,d} || all params: {total:,d} || trainable%: {share}\n"
    assert capsys.readouterr().out == expected


def test_a_new_model_has_a_frozen_host_and_a_message(tmp_path, caplog, monkeypatch):
    save_base(tmp_path / "base")
    # transformers' loggers hand nothing on.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("titans_mal"), "propagate", True)
    model = AutoModelForAudioEmotion.from_base(
        tmp_path / "base", id2label=dict(enumerate(LABELS)), emotion_readout="linear",
        memory_config={"layers": [0, 2], "num_heads": 2, "head_dim": 8},
    )  # fmt: skip
    trained, total = model.get_nb_trainable_parameters()
    assert f"The host is frozen: {trained:,d} of {total:,d} parameters are trainable" in caplog.text
    model.save_pretrained(tmp_path / "adapter")
    for loaded in (model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter")):
        trained = {name.split(".")[0] for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        assert trained == {"titans_memory", "emotion_head"}
