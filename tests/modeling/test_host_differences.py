"""What is special to a host, beyond what holds for all of them."""

import pytest
import torch
import transformers
from peft import LoraConfig
from tiny_hosts import HOSTS, LABELS, PAD, qwen2_5_omni, qwen3_omni_moe

from titans_mal import AutoModelForAudioEmotion, ConversationMemoryCache
from titans_mal.modeling import modeling_granite_speech_mal
from titans_mal.modeling.turn_inputs import filled_placeholders


FRESH = {"id2label": dict(enumerate(LABELS)), "emotion_readout": "linear"}
MEMORY = {"layers": [0, 2], "num_heads": 2, "head_dim": 8}


# --- A host that is a part of a larger checkpoint


def composite_qwen2_5_omni():
    config = transformers.Qwen2_5OmniConfig(thinker_config=qwen2_5_omni(), enable_audio_output=False)
    return transformers.Qwen2_5OmniForConditionalGeneration(config)


def composite_qwen3_omni():
    config = transformers.Qwen3OmniMoeConfig(thinker_config=qwen3_omni_moe(), enable_audio_output=False)
    return transformers.Qwen3OmniMoeForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("name", "composite"), [("Qwen2_5Omni", composite_qwen2_5_omni), ("Qwen3OmniMoe", composite_qwen3_omni)]
)
@torch.no_grad()
def test_a_thinker_is_extracted_from_the_full_checkpoint(name, composite, tmp_path):
    whole, host = composite().eval(), HOSTS[name]
    whole.config.thinker_config.eos_token_id = 77
    whole.save_pretrained(tmp_path / "whole")
    model = AutoModelForAudioEmotion.from_base(tmp_path / "whole", memory_config=MEMORY, **FRESH)
    assert type(model) is host.model_class
    assert model.generation_config.eos_token_id == 77
    turns = host.turns_like_the_host(2)
    assert torch.equal(model(**turns).logits, whole.thinker(**turns).logits)
    for folder, adapter_only in (("adapter", True), ("full", False)):
        model.config.adapter_only = adapter_only
        model.save_pretrained(tmp_path / folder)
        again = AutoModelForAudioEmotion.from_pretrained(tmp_path / folder)
        assert torch.equal(again(**turns).emotion_logits, model(**turns).emotion_logits)


# --- Placeholders without audio


def test_only_the_first_placeholders_of_a_run_hold_audio():
    placeholders = torch.tensor([[0, 1, 1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0, 0]]).bool()
    filled = filled_placeholders(placeholders, 3, torch.tensor([2, 3, 1]))
    assert filled.int().tolist() == [[0, 1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("frames", [[24, 90, 49], [1, 96, 16], [33, 17, 64]])
@torch.no_grad()
def test_gemma3n_audio_positions_match_its_encoder(frames):
    model, turns = HOSTS["Gemma3n"].model(), HOSTS["Gemma3n"].turns(3, frames=frames)
    mask = turns["input_features_mask"]
    padded = model.model.get_audio_features(turns["input_features"], ~mask, return_dict=True).audio_mel_mask
    scored = model.audio_mask(turns["input_ids"], turns).sum(-1)
    assert scored.tolist() == (~padded).sum(-1).tolist()


@torch.no_grad()
def test_voxtral_ignores_its_padding_of_silence():
    host = HOSTS["Voxtral"]
    model, turns = host.model(), host.turns(2, frames=[40, 64])
    assert model.audio_mask(turns["input_ids"], turns).sum(-1).tolist() == [5, 8]
    # A pause in the middle is a part of the turn.
    features = turns["input_features"].clone()
    features[1, :, 8:24] = features[1].min()
    assert model.audio_mask(turns["input_ids"], {**turns, "input_features": features}).sum(-1).tolist() == [5, 8]
    # The padding in the ids is none of it, and decode steps have no features.
    assert model.audio_mask(turns["input_ids"], {"attention_mask": turns["attention_mask"]}).sum(-1).tolist() == [8, 8]


@torch.no_grad()
def test_a_placeholder_used_for_padding_is_not_audio():
    """GLM-ASR's placeholder is called `<|pad|>`; a static cache hides the mask that tells one from the other."""
    host = HOSTS["GlmAsr"]
    model, turns = host.model(), host.turns(2, frames=[30, 90])
    padding = turns["attention_mask"] == 0
    assert padding.any()
    turns["input_ids"] = turns["input_ids"].masked_fill(padding, host.audio)
    # The host takes the padding for placeholders as well, which its features do not fill; here its mask is corrected.
    is_audio = ((turns["input_ids"] == host.audio) & ~padding)[..., None]
    model.model.get_placeholder_mask = lambda ids, inputs_embeds, audio_features: is_audio.expand_as(inputs_embeds)
    generated, expected = (ConversationMemoryCache(model.config, batch_size=2) for _ in range(2))
    model(**turns, memory_cache=expected)
    assert expected.tokens.tolist() == is_audio.sum((1, 2)).tolist()
    for kwargs in ({}, {"cache_implementation": "static"}):
        generated.reset()
        model.generate(**turns, memory_cache=generated, max_new_tokens=2, pad_token_id=PAD, **kwargs)
        assert torch.equal(generated.tokens, expected.tokens)


# --- Blocks that nothing reads


@pytest.mark.parametrize("name", ["Gemma3n", "Gemma4"])
@torch.no_grad()
def test_blocks_that_share_keys_and_values_ignore_the_residual(name, caplog):
    """If the last two of four blocks share theirs, an answer depends only on what is added before block 1."""
    host = HOSTS[name]
    text = host.fields()["text_config"] | {"num_kv_shared_layers": 2}
    reaches = {}
    for layer in (0, 1, 2):
        caplog.clear()
        model = host.model(text_config=text, memory_config={**MEMORY, "layers": [layer]})
        assert ("cannot influence" in caplog.text) == (layer > 0)
        turns = host.turns(2)
        cache = ConversationMemoryCache(model.config, batch_size=2)
        model(**turns, memory_cache=cache)
        with model.disable_memory():
            off = model(**turns).emotion_logits
        reaches[layer] = not torch.equal(model(**turns, memory_cache=cache).emotion_logits, off)
    assert reaches == {0: True, 1: False, 2: False}


# --- Granite Speech, whose checkpoints carry a LoRA of their own


def test_granite_with_a_lora_needs_peft(monkeypatch):
    monkeypatch.setattr(modeling_granite_speech_mal, "is_peft_available", lambda: False)
    with pytest.raises(ImportError, match="uses a LoRA for audio, which needs PEFT"):
        HOSTS["GraniteSpeech"].model(has_lora_adapter=True)


def test_a_checkpoint_without_audio_is_rejected():
    with pytest.raises(ValueError, match="cannot process audio: its audio_config is None"):
        HOSTS["Gemma4"].model(audio_config=None)


@torch.no_grad()
def test_granite_has_its_own_lora(tmp_path):
    host = HOSTS["GraniteSpeech"]
    torch.manual_seed(0)
    fields = host.fields() | {"has_lora_adapter": True}
    plain = transformers.GraniteSpeechForConditionalGeneration(transformers.GraniteSpeechConfig(**fields)).eval()
    # As on the Hub: the host's weights without the LoRA, and the LoRA beside them in PEFT's format.
    base = str(tmp_path / "base")
    plain.save_pretrained(base)
    plain.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    for name, parameter in plain.named_parameters():
        if "lora_" in name:
            parameter.normal_()
    turns = host.turns_like_the_host(2)
    expected = plain(**turns).logits
    plain.peft_config["default"].base_model_name_or_path = base
    transformers.PreTrainedModel.save_pretrained(plain, base)
    model = AutoModelForAudioEmotion.from_base(base, memory_config=MEMORY, **FRESH)
    torch.testing.assert_close(model(**turns).logits, expected, rtol=0, atol=1e-6)
    for parameter in model.titans_memory.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()
    again = AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter")
    scored = [each(**turns, conversation_ids=[0, 0]).emotion_logits for each in (model, again)]
    torch.testing.assert_close(*scored, rtol=0, atol=1e-6)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model.generate(**turns, memory_cache=cache, max_new_tokens=2)
    assert cache.turns.tolist() == [1, 1]
    # Text alone turns the LoRA off in the host; it must be on again afterwards.
    logits = model(**turns).emotion_logits
    with model.disable_memory():
        model.generate(input_ids=turns["input_ids"][:, -3:], max_new_tokens=2)
    assert torch.equal(model(**turns).emotion_logits, logits)
    # Saved by its own class, such a checkpoint loses the names of what the LoRA is on.
    plain.save_pretrained(base)
    with pytest.raises(ValueError, match=r"lacks weights of the host \(.*q_proj\.weight"):
        AutoModelForAudioEmotion.from_base(base, memory_config=MEMORY, **FRESH)


@pytest.mark.parametrize(("host", "field"), [("Qwen3ASR", "thinker_config"), ("GlmAsr", "lm_config")])
def test_configurations_in_the_format_of_their_authors_are_rejected(host, field):
    """transformers reads them as defaults, and nothing of them would be loaded."""
    host = HOSTS[host]
    native = host.config_class.host_class()(**host.fields())
    assert host.config_class.fields_of_host(native)
    with pytest.raises(ValueError, match=rf"\['{field}'\]: take its conversion"):
        host.config_class.fields_of_host(host.config_class.host_class()(**{field: {"hidden_size": 8}}))
