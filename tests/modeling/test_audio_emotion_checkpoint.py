"""`from_base`, `save_pretrained` and `from_pretrained`: nothing lost, nothing random."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_hosts import HOSTS
from tiny_models import LABELS, host_of, save_base, stir, tiny_host, tiny_model, tiny_processor, tiny_turns
from transformers import AutoProcessor, BitsAndBytesConfig, Qwen2AudioForConditionalGeneration

from titans_mal import (
    AutoModelForAudioEmotion,
    ConversationMemoryCache,
    Qwen2AudioMALForAudioEmotion,
    TitansMemoryConfig,
)
from titans_mal.modeling import model_identity
from titans_mal.modeling.checkpoint_files import readable_checkpoint
from titans_mal.modeling.model_identity import host_checksums, host_fingerprint


ID2LABEL = dict(enumerate(LABELS))
MEMORY = TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8, chunk_size=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base(folder)
    return folder


def make_from(base, *, seed=3, **kwargs):
    """A trained model on a base."""
    kwargs = {"id2label": ID2LABEL, "memory_config": MEMORY, "emotion_prompt": "emotion ?", **kwargs}
    torch.manual_seed(seed)
    model = AutoModelForAudioEmotion.from_base(base, **kwargs).eval()
    torch.manual_seed(seed)
    stir(model.titans_memory)
    if kwargs.get("emotion_readout") in ("linear", "audio"):
        with torch.no_grad():
            model.emotion_head.weight.normal_()
    return model


@torch.no_grad()
def scored(model):
    """Emotion and text logits of two turns of a conversation."""
    turns = {n: t.to(model.dtype) if t.is_floating_point() else t for n, t in tiny_turns(2).items()}
    output = model(**turns, conversation_ids=[0, 0])
    return output.emotion_logits, output.logits


def assert_same(model, other):
    for one, two in zip(scored(model), scored(other)):
        assert torch.equal(one, two)


def test_from_base_is_the_host_plus_a_fresh_memory(base):
    model = AutoModelForAudioEmotion.from_base(
        base, id2label=ID2LABEL, memory_config=MEMORY, emotion_prompt="emotion ?"
    )
    assert isinstance(model, Qwen2AudioMALForAudioEmotion)
    # The names of checkpoints on the Hub, which are not those of the module: a random head would be silent.
    assert "language_model.lm_head.weight" in load_file(base / "model.safetensors")
    assert "lm_head.weight" in model.state_dict()
    host = Qwen2AudioForConditionalGeneration.from_pretrained(base).eval()
    turns = tiny_turns(2)
    with torch.no_grad():
        assert torch.equal(model.eval()(**turns).logits, host(**turns).logits)
    assert model.config.adapter_only
    assert model.config.base_model_name_or_path == str(base)
    vocabulary = tiny_processor().tokenizer.get_vocab()
    assert model.config.label_token_ids == [vocabulary[label] for label in LABELS]


@pytest.mark.parametrize("readout", ["verbalizer", "linear", "audio"])
@pytest.mark.parametrize("adapter_only", [True, False])
def test_save_and_load(base, tmp_path, adapter_only, readout):
    model = make_from(base, emotion_readout=readout)
    model.config.adapter_only = adapter_only
    model.save_pretrained(tmp_path / "first")
    first = AutoModelForAudioEmotion.from_pretrained(tmp_path / "first")
    assert_same(model, first)
    first.save_pretrained(tmp_path / "second")
    assert_same(model, Qwen2AudioMALForAudioEmotion.from_pretrained(tmp_path / "second"))
    keys = set(load_file(tmp_path / "second" / "model.safetensors"))
    extension = {key for key in keys if key.split(".")[0] in ("titans_memory", "emotion_head")}
    assert any(key.startswith("emotion_head") for key in keys) == (readout != "verbalizer")
    assert (keys == extension) == adapter_only


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["memory of an adapter", "memory", "host", "base"])
def test_weights_that_are_not_finite(base, tmp_path, where, number):
    model = make_from(base)
    model.config.adapter_only = where == "memory of an adapter"
    tensor = "titans_memory.layers.0.key_proj.weight" if "memory" in where else "lm_head.weight"
    with torch.no_grad():
        model.get_parameter(tensor)[1, 2] = number
    if where == "base":
        broken = shutil.copytree(base, tmp_path / "base") / "model.safetensors"
        weights = load_file(broken)
        weights["language_model.lm_head.weight"][1, 2] = number
        save_file(weights, broken, {"format": "pt"})
        with pytest.raises(ValueError, match=rf"1 tensors with values that are not finite \({tensor}"):
            make_from(tmp_path / "base")
        return
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"{tmp_path} has 1 tensors with values that are not finite \({tensor}"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)


@pytest.mark.parametrize("is_adapter", [True, False])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"])
def test_broken_weights_are_an_error_like_others(base, tmp_path, content, is_adapter):
    model = make_from(base)
    model.config.adapter_only = is_adapter
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights of .* cannot be read"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)


def test_broken_configurations_are_an_error_like_others(base, tmp_path):
    make_from(base).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)
    for token in (-1, 10**9):
        (tmp_path / "config.json").write_text(json.dumps(written | {"audio_token_index": token}))
        with pytest.raises(ValueError, match="audio_token_id must be one of the host's"):
            AutoModelForAudioEmotion.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "null"),
        ("config.json", {"audio_config": "x"}),
        ("config.json", {"dtype": "float99"}),
        ("config.json", {"base_model_name_or_path": 5}),
        ("config.json", {"quantization_config": "x"}),
        ("generation_config.json", "[]"),
    ],
)
def test_values_of_no_allowed_kind_are_an_error_like_others(base, tmp_path, file, content):
    make_from(base).save_pretrained(tmp_path)
    if isinstance(content, dict):
        content = json.dumps(json.loads((tmp_path / file).read_text()) | content)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=f"The configuration of {tmp_path} is invalid"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "error",
    [TypeError("got an unexpected keyword argument 'a'"), RuntimeError("CUDA error"), NotImplementedError("no"),
     torch.OutOfMemoryError("128 GiB"), OSError("full"), ImportError("peft")],
)  # fmt: skip
def test_what_is_no_fault_of_a_checkpoint_is_raised_as_it_is(error):
    with pytest.raises(type(error), match=str(error)), readable_checkpoint("folder"):
        raise error


def test_an_adapter_is_small_and_names_its_base(base, tmp_path):
    model = make_from(base)
    model.config.base_model_revision = "abc123"
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert config["base_model_revision"] == "abc123"
    assert config["adapter_only"] is True
    assert not (tmp_path / "adapter_config.json").exists()  # transformers would take it for a PEFT repository


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter_only", [True, False])
def test_half_precision(base, tmp_path, adapter_only, dtype):
    model = make_from(base, dtype=dtype)
    assert model.dtype == dtype
    assert {p.dtype for p in model.titans_memory.parameters()} == {torch.float32}
    model.config.adapter_only = adapter_only
    model.save_pretrained(tmp_path)
    loaded = AutoModelForAudioEmotion.from_pretrained(tmp_path, dtype=dtype)
    assert loaded.lm_head.weight.dtype == dtype
    assert {p.dtype for p in loaded.titans_memory.parameters()} == {torch.float32}
    assert_same(model, loaded)
    assert AutoModelForAudioEmotion.from_pretrained(tmp_path).dtype == dtype


def test_a_sharded_base(base, tmp_path):
    host = Qwen2AudioForConditionalGeneration.from_pretrained(base)
    host.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tiny_processor().save_pretrained(tmp_path / "base")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    model = make_from(tmp_path / "base")
    assert_same(model, make_from(base))
    model.save_pretrained(tmp_path / "adapter")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter"))
    model.config.adapter_only = False
    model.save_pretrained(tmp_path / "full", max_shard_size="20KB")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "full"))


def test_a_base_that_lacks_weights_is_rejected(base, tmp_path):
    weights = load_file(base / "model.safetensors")
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights.pop("language_model.lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of the host \(lm_head\.weight\)\."):
        make_from(tmp_path)


@pytest.mark.parametrize("change", ["in place", "through .data", "a new parameter"])
def test_a_changed_host_is_not_lost_silently(base, tmp_path, change):
    model = make_from(base)
    weight = model.get_decoder().layers[1].mlp.down_proj.weight
    if change == "in place":
        with torch.no_grad():
            weight[0, 0] += 0.5
    elif change == "through .data":
        weight.data = weight.data * 1.01
    else:
        model.get_decoder().layers[1].mlp.down_proj.weight = torch.nn.Parameter(weight.detach() + 0.5)
    with pytest.raises(ValueError, match=r"1 weights of the host differ.*down_proj.*adapter_only = False"):
        model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    model.config.adapter_only = False
    model.save_pretrained(tmp_path / "full")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "full"))


def test_swapped_rows_of_a_host_weight_are_detected(base, tmp_path):
    """The same numbers in other places."""
    model = make_from(base)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        model.save_pretrained(tmp_path)


def test_a_given_state_dict_is_filtered(base, tmp_path):
    model = make_from(base)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state["titans_memory.layers.0.output_proj.weight"] += 1
    model.save_pretrained(tmp_path, state_dict=state)
    saved = load_file(tmp_path / "model.safetensors")
    assert {key.split(".")[0] for key in saved} == {"titans_memory"}
    assert torch.equal(
        saved["titans_memory.layers.0.output_proj.weight"], state["titans_memory.layers.0.output_proj.weight"]
    )


def test_loading_an_adapter_warns_of_nothing(base, tmp_path, caplog):
    make_from(base).save_pretrained(tmp_path)
    AutoModelForAudioEmotion.from_pretrained(tmp_path)
    assert not [record for record in caplog.records if "LOAD REPORT" in record.message]


def test_a_model_without_a_base_cannot_be_saved_as_adapter(tmp_path):
    model = tiny_model(adapter_only=True)
    with pytest.raises(ValueError, match="its base is unknown"):
        model.save_pretrained(tmp_path)


def test_an_adapter_with_other_weights_is_rejected(base, tmp_path):
    make_from(base).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights.pop("titans_memory.layers.1.query_proj.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"does not hold the weights .*query_proj"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)


def test_a_full_checkpoint_that_lacks_weights_is_rejected(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("titans_memory.layers.1.query_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of .*query_proj"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"memory_config": {"layers": [0]}}, {"emotion_readout": "verbalizer", "label_token_ids": [3, 4, 5, 6]}]
)
def test_a_checkpoint_whose_weights_would_be_left_out_is_rejected(tmp_path, changes):
    tiny_model(emotion_readout="audio").save_pretrained(tmp_path)
    # The head of one readout fits the other one.
    AutoModelForAudioEmotion.from_pretrained(tmp_path, emotion_readout="linear")
    with pytest.raises(ValueError, match=r"has weights of memory or readout that its config does not describe"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path, **changes)


def test_labels_of_a_checkpoint_keep_their_order(base, tmp_path):
    make_from(base).save_pretrained(tmp_path)
    labels = list(ID2LABEL.values())
    renamed = {index: f"{label} voice" for index, label in ID2LABEL.items()}
    assert AutoModelForAudioEmotion.from_pretrained(tmp_path, id2label=renamed).config.id2label == renamed
    moved = dict(enumerate([labels[1], labels[0], *labels[2:]]))
    with pytest.raises(
        ValueError, match=r"other ids than the saved configuration, whose .* keep the order, or leave id2label out"
    ):
        AutoModelForAudioEmotion.from_pretrained(tmp_path, id2label=moved)


@pytest.mark.parametrize("readout", ["verbalizer", "linear"])
def test_the_processor_is_saved_with_the_model(base, tmp_path, readout):
    make_from(base, emotion_readout=readout).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__ == "Qwen2AudioProcessor"


def test_a_base_without_a_processor_works_with_a_linear_readout(tmp_path):
    tiny_host().save_pretrained(tmp_path / "bare")
    make_from(tmp_path / "bare", emotion_readout="linear").save_pretrained(tmp_path / "adapter")
    assert AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter").config.labels == list(LABELS)
    with pytest.raises(OSError, match="bare"):
        make_from(tmp_path / "bare")


def test_labels_with_a_common_first_token_are_rejected_before_loading(base, monkeypatch):
    monkeypatch.setattr(Qwen2AudioMALForAudioEmotion, "_load_host", lambda *args: pytest.fail("weights were loaded"))
    labels = {0: "neutral", 1: "sad", 2: "sad word1"}
    with pytest.raises(ValueError, match=r"The labels \['sad', 'sad word1'\] begin with the same token"):
        make_from(base, id2label=labels)
    with pytest.raises(ValueError, match="no token for the label 'unheard'"):
        make_from(base, id2label={0: "neutral", 1: "unheard"})
    with pytest.raises(ValueError, match="strictly increasing"):
        make_from(base, memory_config={"layers": [2, 1]})


def test_labels_with_a_common_first_token_work_with_a_linear_readout(base):
    model = make_from(base, id2label={0: "neutral", 1: "sad", 2: "sad word1"}, emotion_readout="linear")
    assert scored(model)[0].shape == (2, 3)


def test_a_verbalizer_without_label_tokens_is_rejected():
    with pytest.raises(ValueError, match="needs label_token_ids in the config"):
        tiny_model(label_token_ids=None)


def test_another_host_is_rejected(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"No memory for a host of type 'bert': supported are .*'qwen2_audio'"):
        AutoModelForAudioEmotion.from_base(tmp_path, id2label=ID2LABEL)
    with pytest.raises(ValueError, match="it is a 'bert' checkpoint"):
        Qwen2AudioMALForAudioEmotion.from_base(tmp_path, id2label=ID2LABEL)


def test_a_conversation_is_continued_after_loading(base, tmp_path):
    """A cache belongs to the weights it was written with: saved, loaded, and not to other weights."""
    make_from(base).save_pretrained(tmp_path / "model")
    model = AutoModelForAudioEmotion.from_pretrained(tmp_path / "model")
    cache = ConversationMemoryCache(model.config, batch_size=2)
    with torch.no_grad():
        model(**tiny_turns(2), memory_cache=cache)
    cache.save_pretrained(tmp_path / "state")
    again = AutoModelForAudioEmotion.from_pretrained(tmp_path / "model")
    again(**tiny_turns(2), memory_cache=ConversationMemoryCache.from_pretrained(tmp_path / "state", again.config))
    stir(model.titans_memory)
    model.save_pretrained(tmp_path / "other")
    other = AutoModelForAudioEmotion.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="written by a memory with other weights"):
        ConversationMemoryCache.from_pretrained(tmp_path / "state", other.config)


@torch.no_grad()
def test_a_state_belongs_to_the_weights_that_wrote_it_saved_or_not(base, tmp_path):
    model, other, turns = make_from(base), make_from(base, seed=5), tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=cache)
    # In any order, before a model was ever saved.
    cache.save_pretrained(tmp_path / "state")
    model.save_pretrained(tmp_path / "model")
    again = AutoModelForAudioEmotion.from_pretrained(tmp_path / "model")
    again(**turns, memory_cache=ConversationMemoryCache.from_pretrained(tmp_path / "state", again.config))
    # What another memory of the same shape wrote is not read, nor what this one wrote before it was changed.
    with pytest.raises(ValueError, match="written by a memory with other weights"):
        other(**turns, memory_cache=cache)
    stir(model.titans_memory)
    with pytest.raises(ValueError, match="written by a memory with other weights"):
        model(**turns, memory_cache=cache)
    cache.reset()
    model(**turns, memory_cache=cache)
    # Training goes on with a cache while the weights change.
    model.train()
    model(**turns, memory_cache=cache)
    stir(model.titans_memory)
    model(**turns, memory_cache=cache)


@pytest.mark.parametrize("change", ["fused", "foreach", "in place", "replaced", "data while it trains"])
def test_every_change_of_weights_is_detected(base, change):
    model, turns = make_from(base), tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    with torch.no_grad():
        model(**turns, memory_cache=cache)
    layer = model.titans_memory.layers[0]
    if change in ("fused", "foreach"):
        optimizer = torch.optim.AdamW(model.titans_memory.parameters(), lr=1e-2, **{change: True})
        model(**turns, emotion_labels=[0, 1]).loss.backward()
        optimizer.step()
    elif change == "in place":
        torch.nn.init.normal_(layer.key_proj.weight)
    elif change == "replaced":
        layer.key_proj.weight = torch.nn.Parameter(1.01 * layer.key_proj.weight)
    else:
        model.train()
        layer.key_proj.weight.data.mul_(1.01)
        model.eval()
    with pytest.raises(ValueError, match="written by a memory with other weights"):
        model(**turns, memory_cache=cache)


@torch.no_grad()
def test_a_call_reads_no_weights_and_changes_no_configuration(base, tmp_path, monkeypatch):
    make_from(base).save_pretrained(tmp_path)
    model = AutoModelForAudioEmotion.from_pretrained(tmp_path)
    monkeypatch.setattr(model_identity, "weights_fingerprint", lambda weights: pytest.fail("the weights were read"))
    cache, before = ConversationMemoryCache(model.config, batch_size=2), model.config.to_dict()
    for seed in range(2):
        model(**tiny_turns(2, seed=seed), memory_cache=cache)
    assert model.config.to_dict() == before
    assert cache.weights_fingerprint == model.config.memory_config.weights_fingerprint
    # What a training leaves is not what was saved.
    assert model.train().config.memory_config.weights_fingerprint is None


@torch.no_grad()
def test_a_state_of_unknown_weights_keeps_an_unknown_origin(base):
    model, turns = make_from(base), tiny_turns(2)
    cache = ConversationMemoryCache(model.config, batch_size=2)
    model.train()(**turns, memory_cache=cache)
    model.eval()(**turns, memory_cache=cache)
    assert cache.weights_fingerprint is None
    known = ConversationMemoryCache(model.config, batch_size=2)
    model(**turns, memory_cache=known)
    assert known.weights_fingerprint
    assert ConversationMemoryCache.stack([known, cache]).weights_fingerprint is None
    assert ConversationMemoryCache.stack([known, known.clone()]).weights_fingerprint == known.weights_fingerprint


def test_a_float64_host_has_a_float64_memory(base):
    model = make_from(base, dtype=torch.float64)
    assert {p.dtype for p in model.titans_memory.parameters()} == {torch.float64}


@torch.no_grad()
def test_saving_does_not_disturb_calls_in_other_threads(base, tmp_path):
    model, turns, stop, failures = make_from(base), tiny_turns(2), threading.Event(), []
    cache = ConversationMemoryCache(model.config, batch_size=2)

    def listen():
        while not stop.is_set():
            try:
                with torch.no_grad():
                    model(**turns, memory_cache=cache)
            except ValueError as error:
                failures.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    for _ in range(3):
        model.save_pretrained(tmp_path)
    stop.set()
    thread.join()
    assert not failures


def test_an_adapter_of_any_shard_size_or_variant_loads_again(base, tmp_path):
    model = make_from(base)
    model.save_pretrained(tmp_path / "small", max_shard_size="10KB")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "small"))
    model.save_pretrained(tmp_path / "variant", variant="v2")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "variant", variant="v2"))


@pytest.mark.parametrize("adapter_only", [True, False])
def test_other_files_of_a_checkpoint_are_restored(base, tmp_path, adapter_only):
    model = make_from(base)
    model.config.adapter_only = adapter_only
    model.generation_config.max_new_tokens = 3
    model.save_pretrained(tmp_path / "first")
    again = AutoModelForAudioEmotion.from_pretrained(tmp_path / "first")
    assert again.generation_config.max_new_tokens == 3
    again.save_pretrained(tmp_path / "second")
    assert type(AutoProcessor.from_pretrained(tmp_path / "second")).__name__ == "Qwen2AudioProcessor"


def test_the_processor_is_available_before_any_upload(base, tmp_path, monkeypatch):
    model, seen = make_from(base), []
    monkeypatch.setattr(
        transformers.PreTrainedModel, "save_pretrained", lambda self, folder, **kwargs: seen.extend(os.listdir(folder))
    )
    model.save_pretrained(tmp_path)
    assert {"processor_config.json", "modeling_qwen2_audio_mal.py"} <= set(seen)
    (tmp_path / "other").mkdir()
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not list((tmp_path / "other").iterdir())


def test_fields_of_the_config_can_be_given_when_loading(base, tmp_path):
    make_from(base).save_pretrained(tmp_path)
    for load in (AutoModelForAudioEmotion.from_pretrained, Qwen2AudioMALForAudioEmotion.from_pretrained):
        model, info = load(tmp_path, emotion_prompt="emotion {labels}", output_loading_info=True)
        assert model.config.emotion_prompt == "emotion {labels}"
        assert not info["missing_keys"]
        with pytest.raises(ValueError, match="label_token_ids must hold a different token for each of"):
            load(tmp_path, id2label={0: "glad", 1: "cross"})
    _, info = AutoModelForAudioEmotion.from_base(base, id2label=ID2LABEL, output_loading_info=True)
    assert not info["unexpected_keys"]


def test_a_base_in_a_subfolder(base, tmp_path):
    shutil.copytree(base, tmp_path / "repo" / "part")
    model = make_from(tmp_path / "repo", subfolder="part")
    model.save_pretrained(tmp_path / "adapter")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter"))


def test_missing_folders(base, tmp_path, monkeypatch):
    for load in (AutoModelForAudioEmotion.from_pretrained, Qwen2AudioMALForAudioEmotion.from_pretrained):
        with pytest.raises(FileNotFoundError, match=r"The checkpoint .*nowhere does not exist"):
            load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        make_from(tmp_path / "nowhere")
    # A relative path is kept as the place that it meant.
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    make_from("base").save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path.parent)
    AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match=r"The base of the adapter .*adapter, .*base does not exist"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter")


def test_a_host_without_memory_is_distinguished_from_a_checkpoint(base):
    with pytest.raises(ValueError, match="is not a model with memory: from_base adds a memory to a host"):
        AutoModelForAudioEmotion.from_pretrained(base)


@pytest.mark.parametrize("model_type", ["voxtral_realtime", "vibevoice_asr"])
def test_unsupported_hosts_are_rejected_by_name(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=f"No memory for a host of type '{model_type}': V"):
        AutoModelForAudioEmotion.from_base(tmp_path, id2label=ID2LABEL)


def with_lora(model, name="default", **kwargs):
    torch.manual_seed(4)
    kwargs = {
        "r": 2,
        "target_modules": r".*language_model.*\.(q_proj|down_proj)",
        "init_lora_weights": False,
        **kwargs,
    }
    model.add_adapter(LoraConfig(**kwargs), name)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_lora_on_the_host_is_saved_beside_the_memory(base, tmp_path, dtype):
    model = make_from(base, dtype=dtype)
    before = scored(model)
    with_lora(model)
    assert not torch.equal(scored(model)[0], before[0])
    model.save_pretrained(tmp_path / "first")
    assert not (tmp_path / "first" / "adapter_config.json").exists()  # transformers would take it for one of PEFT's
    loaded = AutoModelForAudioEmotion.from_pretrained(tmp_path / "first", dtype=dtype)
    assert_same(model, loaded)
    assert loaded.config.has_lora
    assert not any(parameter.requires_grad for name, parameter in loaded.named_parameters() if ".lora_" in name)
    loaded.save_pretrained(tmp_path / "second")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "second", dtype=dtype))
    # PEFT itself reads it onto the host alone.
    host = Qwen2AudioForConditionalGeneration.from_pretrained(base, dtype=dtype)
    host = PeftModel.from_pretrained(host, tmp_path / "second" / "lora", autocast_adapter_dtype=False).eval()
    turns = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tiny_turns(2).items()}
    with loaded.disable_memory():
        assert torch.equal(loaded(**turns).logits, host(**turns).logits)
    # And what PEFT wrote there is found, whether the config speaks of it or not.
    make_from(base, dtype=dtype).save_pretrained(tmp_path / "third")
    host.save_pretrained(tmp_path / "third" / "lora")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "third", dtype=dtype))


def test_a_lost_or_stale_lora_is_detected(base, tmp_path):
    model = with_lora(make_from(base))
    model.save_pretrained(tmp_path)
    weights = (tmp_path / "lora" / "adapter_model.safetensors").read_bytes()
    # A pickle is never read, nor is a LoRA for another host, nor none at all where one is named.
    torch.save({}, tmp_path / "lora" / "adapter_model.bin")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"adapter_model\.safetensors"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(weights)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(ValueError, match=r"The LoRA of .* does not fit its host: .*q_proj"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "lora")
    with pytest.raises(OSError, match=r"adapter_config\.json"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    model.delete_adapter("default")
    model.save_pretrained(tmp_path)
    assert not AutoModelForAudioEmotion.from_pretrained(tmp_path).config.has_lora


def test_adapters_of_peft_are_not_lost_silently(base, tmp_path):
    model = with_lora(with_lora(make_from(base)), "second")
    with pytest.raises(ValueError, match=r"Only one PEFT adapter .* has \['default', 'second'\]"):
        model.save_pretrained(tmp_path)
    model.config.adapter_only = False
    with pytest.raises(ValueError, match="has PEFT adapters"):
        model.save_pretrained(tmp_path)
    for wrong in ({"target_modules": "all-linear"}, {"modules_to_save": ["titans_memory"]}):
        with pytest.raises(ValueError, match=r"A PEFT adapter targets \['titans_memory'\]"):
            with_lora(make_from(base), **wrong)
        # As PEFT itself puts it there.
        model = make_from(base)
        get_peft_model(model, LoraConfig(r=2, **({"target_modules": ["q_proj"]} | wrong)))
        with pytest.raises(ValueError, match=r"A PEFT adapter targets \['titans_memory'\]"):
            model.save_pretrained(tmp_path)
    # A host weight that changed beside the LoRA is noticed as ever.
    model = with_lora(make_from(base))
    with torch.no_grad():
        model.get_decoder().layers[0].self_attn.q_proj.base_layer.weight[0, 0] += 0.5
    with pytest.raises(ValueError, match=r"1 weights of the host differ.*q_proj\.weight"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@torch.no_grad()
def test_a_lora_is_saved_as_it_is_loaded(base, tmp_path):
    """Active, at its own scale, on blocks that are there."""
    model = with_lora(make_from(base))
    expected = scored(model)
    model.disable_adapters()
    with pytest.raises(ValueError, match=r"now \[\] are: call enable_adapters"):
        model.save_pretrained(tmp_path / "model")
    model.enable_adapters()
    layer = model.get_decoder().layers[0].self_attn.q_proj
    layer.set_scale("default", 3)
    with pytest.raises(ValueError, match=r"adapter 'default' at .*q_proj has the scale 12\.0"):
        model.save_pretrained(tmp_path / "model")
    layer.set_scale("default", 1)
    layer.merge()
    with pytest.raises(ValueError, match=r"is merged into .*q_proj: unmerge it"):
        model.save_pretrained(tmp_path / "model")
    layer.unmerge()
    model = with_lora(make_from(base))
    model.save_pretrained(tmp_path / "model")
    assert all(map(torch.equal, scored(AutoModelForAudioEmotion.from_pretrained(tmp_path / "model")), expected))
    kwargs = {"device_map": "auto", "max_memory": {"cpu": "120KB"}, "offload_folder": tmp_path / "offload"}
    with pytest.raises(ValueError, match="offloaded blocks of the host"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path / "model", **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_modules_that_a_lora_trains_in_full(base, tmp_path, dtype):
    model = with_lora(make_from(base, dtype=dtype), modules_to_save=["lm_head"])
    model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    model.save_pretrained(tmp_path)
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path, dtype=dtype))
    scored(AutoModelForAudioEmotion.from_pretrained(tmp_path, dtype=torch.bfloat16))


def test_a_lora_leaves_the_memory_trainable(base):
    model = make_from(base)
    model.requires_grad_(False)
    model.titans_memory.requires_grad_(True)
    with_lora(model)
    assert trained_parts(model) == {"titans_memory", "lora"}


def trained_parts(model) -> set[str]:
    return {
        "lora" if "lora_" in name else name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def test_a_lora_of_peft_is_loaded_onto_the_host_and_saved(base, tmp_path):
    """Trained by others on the plain host; `load_adapter` freezes it, and nothing of the memory."""
    host = get_peft_model(
        Qwen2AudioForConditionalGeneration.from_pretrained(base),
        LoraConfig(r=2, target_modules=["q_proj", "down_proj"]),
    )
    for name, parameter in host.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    host.save_pretrained(tmp_path / "theirs")
    model = make_from(base)
    model.load_adapter(str(tmp_path / "theirs"))
    assert trained_parts(model) == {"titans_memory"}
    turns = tiny_turns(2)
    with model.eval().disable_memory():
        torch.testing.assert_close(model(**turns).logits, host.eval()(**turns).logits)
    model.save_pretrained(tmp_path / "model")
    assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "model"))
    merged = get_peft_model(make_from(base), LoraConfig(r=2, target_modules=["q_proj"])).merge_and_unload()
    merged.get_decoder().layers[0].self_attn.q_proj.weight.add_(0.1)
    with pytest.raises(ValueError, match="weights of the host differ"):
        merged.save_pretrained(tmp_path / "merged")
    merged.config.adapter_only = False
    merged.save_pretrained(tmp_path / "merged")
    assert_same(merged, AutoModelForAudioEmotion.from_pretrained(tmp_path / "merged"))


def test_pickles_are_never_loaded(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    torch.save(load_file(base / "model.safetensors"), tmp_path / "base" / "pytorch_model.bin")
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        make_from(tmp_path / "base")
    model = tiny_model()
    model.save_pretrained(tmp_path / "full")
    torch.save(model.state_dict(), tmp_path / "full" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="use_safetensors=False is not allowed"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path / "full", use_safetensors=False)
    (tmp_path / "full" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        AutoModelForAudioEmotion.from_pretrained(tmp_path / "full")


def test_saving_loses_nothing(base, tmp_path):
    """Neither the base, nor what a state_dict lacks, nor the weights to those of an earlier saving."""
    shutil.copytree(base, tmp_path / "base")
    model = make_from(tmp_path / "base")
    with pytest.raises(ValueError, match="is the base of this adapter, which would be overwritten"):
        model.save_pretrained(tmp_path / "base")
    for state in ({}, {f"base_model.model.{key}": tensor for key, tensor in model.state_dict().items()}):
        with pytest.raises(ValueError, match=r"The state_dict lacks \d+ weights of memory and readout"):
            model.save_pretrained(tmp_path / "adapter", state_dict=state)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state["lm_head.weight"][0] += 1
    with pytest.raises(ValueError, match=r"1 weights of the host differ .*lm_head"):
        model.save_pretrained(tmp_path / "adapter", state_dict=state)
    with pytest.raises(ValueError, match=r"use model\.push_to_hub\(repo_id\)"):
        model.save_pretrained(tmp_path / "adapter", push_to_hub=True, repo_id="org/name")
    model.config.adapter_only = False
    other = make_from(base, seed=5)
    other.config.adapter_only = False
    other.save_pretrained(tmp_path / "full")
    for size in ("20KB", "1GB", "40KB"):
        model.save_pretrained(tmp_path / "full", max_shard_size=size)
        assert_same(model, AutoModelForAudioEmotion.from_pretrained(tmp_path / "full"))


@pytest.mark.parametrize("change", ["signs", "three signs", "layers"])
@torch.no_grad()
def test_every_change_of_a_host_is_detected(base, change):
    """Those too that sums of numbers miss."""
    model = make_from(base).to(torch.float64 if change == "signs" else torch.float32)
    before = host_checksums(model.state_dict(), without=("titans_memory",))
    layers = model.get_decoder().layers
    if change == "signs":
        layers[1].mlp.down_proj.weight.neg_()
    elif change == "three signs":
        for row, column in ((1, 1), (1, 3), (3, 1)):
            layers[1].mlp.down_proj.weight[row, column] *= -1
    else:
        layers[0], layers[1] = layers[1], layers[0]
    after = host_checksums(model.state_dict(), without=("titans_memory",))
    assert before != after
    assert host_fingerprint(before) != host_fingerprint(after)


def test_a_wrong_base_is_rejected_naming_both(base, tmp_path):
    make_from(base).save_pretrained(tmp_path / "adapter")
    fingerprint = json.loads((tmp_path / "adapter" / "config.json").read_text())["base_fingerprint"]
    assert fingerprint.startswith("float32-")
    load = AutoModelForAudioEmotion.from_pretrained
    shutil.copytree(base, tmp_path / "copy")
    assert_same(load(tmp_path / "adapter"), load(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "copy")))
    # Of the same shape, but with other weights.
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    weights["language_model.lm_head.weight"][0, 0] += 1
    save_file(weights, tmp_path / "copy" / "model.safetensors", {"format": "pt"})
    other = {"base_model_name_or_path": str(tmp_path / "copy")}
    reported = rf"The base {tmp_path}/copy is not the host that the adapter {tmp_path}/adapter was made for"
    with pytest.raises(ValueError, match=reported):
        load(tmp_path / "adapter", **other)
    # In another dtype it cannot be checked, and the check may be skipped.
    load(tmp_path / "adapter", dtype=torch.bfloat16, **other)
    passed_over = load(tmp_path / "adapter", base_fingerprint=None, **other)
    passed_over.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").config.base_fingerprint == passed_over.config.base_fingerprint != fingerprint
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    message = (
        r"The base .*copy of the adapter .*adapter is not .*: text_config\.intermediate_size is 48, expected 64\."
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "adapter", **other)
    (tmp_path / "copy" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"The base .*copy of the adapter .*: it is a 'bert' checkpoint"):
        load(tmp_path / "adapter", **other)
    (tmp_path / "copy" / "config.json").unlink()
    with pytest.raises(OSError, match=r"The base .*copy of the adapter .*adapter cannot be loaded: "):
        load(tmp_path / "adapter", **other)


@torch.no_grad()
def test_a_quantised_base_leaves_the_memory_as_it_is(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    make_from(base, emotion_readout="linear").save_pretrained(tmp_path / "adapter")
    plain = AutoModelForAudioEmotion.from_pretrained(tmp_path / "adapter")
    quantised = AutoModelForAudioEmotion.from_pretrained(
        tmp_path / "adapter", quantization_config=BitsAndBytesConfig(load_in_8bit=True)
    )
    projection = quantised.get_decoder().layers[0].mlp.down_proj.weight
    assert type(projection) is not torch.nn.Parameter
    for name, child in (("titans_memory", quantised.titans_memory), ("emotion_head", quantised.emotion_head)):
        for key, weight in child.named_parameters():
            assert type(weight) is torch.nn.Parameter
            assert torch.equal(weight, plain.get_parameter(f"{name}.{key}")), key
    scores, exact = scored(quantised)[0], scored(plain)[0]
    assert not torch.equal(scores, exact)
    torch.testing.assert_close(scores, exact, rtol=0.05, atol=0.1)
    # How it was loaded is no property of the adapter.
    quantised.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    assert_same(plain, AutoModelForAudioEmotion.from_pretrained(tmp_path / "again"))


@pytest.mark.parametrize("adapter_only", [True, False])
@torch.no_grad()
def test_a_memory_is_never_offloaded(base, tmp_path, adapter_only):
    model = make_from(base)
    model.config.adapter_only = adapter_only
    model.save_pretrained(tmp_path / "model")
    places = {"model": "cpu", "lm_head": "cpu", "titans_memory": "disk"}
    kwargs = {"device_map": places, "offload_folder": tmp_path / "offload"}
    loaded = AutoModelForAudioEmotion.from_pretrained(tmp_path / "model", **kwargs)
    assert {parameter.device.type for parameter in loaded.titans_memory.parameters()} == {"cpu"}
    assert_same(model, loaded)
    fresh = make_from(base, **kwargs)
    assert all(parameter.isfinite().all() for parameter in fresh.titans_memory.parameters())
    assert fresh.titans_memory.layers[0].initial_memory[0].abs().max() > 0


def test_code_travels_with_the_model(tmp_path):
    """A machine without this package loads it as remote code, and gets the same numbers."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    torch.save((tiny_turns(2), scored(model)[0]), tmp_path / "expected.pt")
    script = f"""
import sys
class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "titans_mal":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoPackage())
import torch
from transformers import AutoModelForMultimodalLM
model = AutoModelForMultimodalLM.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
turns, expected = torch.load({str(tmp_path / "expected.pt")!r})
with torch.no_grad():
    torch.testing.assert_close(model(**turns, conversation_ids=[0, 0]).emotion_logits, expected, rtol=0, atol=1e-6)
assert "titans_mal" not in sys.modules
print(type(model).__module__)
"""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("transformers_modules.")


@pytest.mark.slow
@torch.no_grad()
def test_every_hosts_code_travels(tmp_path):
    names = [name for name in HOSTS if name != "Gemma3n"]  # whose vision tower needs timm
    for name in names:
        model, turns = HOSTS[name].model(), HOSTS[name].turns(2)
        model.save_pretrained(tmp_path / name)
        torch.save((turns, model(**turns, conversation_ids=[0, 0]).emotion_logits), tmp_path / f"{name}.pt")
    script = f"""
import sys
sys.modules["titans_mal"] = None
import torch
from transformers import AutoModelForMultimodalLM
for name in {names!r}:
    model = AutoModelForMultimodalLM.from_pretrained({str(tmp_path)!r} + "/" + name, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    turns, expected = torch.load({str(tmp_path)!r} + "/" + name + ".pt")
    with torch.no_grad():
        actual = model(**turns, conversation_ids=[0, 0]).emotion_logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
model.save_pretrained({str(tmp_path)!r} + "/again")
print("all", len({names!r}))
"""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("all 11")


@torch.no_grad()
def test_the_host_can_be_extracted():
    model = tiny_model()
    with model.disable_memory():
        assert torch.equal(model(**tiny_turns(2)).logits, host_of(model)(**tiny_turns(2)).logits)


@torch.no_grad()
def test_an_adapter_in_bfloat16_is_half_as_large_and_loads_as_it_was_saved(base, tmp_path):
    """Computed in float32, as rounded; saved again, nothing changes any more."""
    model = make_from(base)
    model.titans_memory.layers[0].output_proj.weight.normal_(std=0.02)
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        model.config.adapter_dtype = dtype
        model.save_pretrained(tmp_path / dtype)
        sizes[dtype] = (tmp_path / dtype / "model.safetensors").stat().st_size
    assert sizes["bfloat16"] < 0.75 * sizes["float32"]
    loaded = AutoModelForAudioEmotion.from_pretrained(tmp_path / "bfloat16")
    weight = loaded.titans_memory.layers[0].output_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.titans_memory.layers[0].output_proj.weight.bfloat16().float())
    assert loaded.config.memory_config.weights_fingerprint == loaded.titans_memory.fingerprint()
    loaded.save_pretrained(tmp_path / "again")
    again, before = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("again", "bfloat16"))
    assert again == before
    model.config.adapter_dtype = "int8"
    with pytest.raises(ValueError, match="adapter_dtype must be one of"):
        model.config.check()
