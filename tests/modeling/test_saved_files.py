"""What commit 6722468 saved still loads, and gives the numbers that it gave then."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import MAX_FRAMES, tone
from torch.nn import functional as F

from titans_mal import (
    AutoModelForAudioEmotion,
    ConversationAnalyzer,
    ConversationMemoryCache,
    TitansMemoryConfig,
)


SAVED = Path(__file__).parents[1] / "saved_by_6722468"
CALLS, ROWS = 3, 2
IDS, SPEAKERS = [9, 3], [[0, 7], [7, 0], [0, 7]]
# Sums of float32 differ among versions of torch.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def load_model(name):
    base = {"base_model_name_or_path": str(SAVED / "base")} if name == "adapter" else {}
    return AutoModelForAudioEmotion.from_pretrained(SAVED / name, **base).eval()


def inputs_of(call):
    tensors = load_file(SAVED / "inputs.safetensors")
    inputs = {key.partition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{call}.")}
    return {k: F.pad(t, (0, MAX_FRAMES - t.shape[-1])) if "feature" in k else t for k, t in inputs.items()}


def assert_call_is_as_it_was(name, model, cache, call):
    speakers = SPEAKERS[call] if name == "full" else None
    output = model(**inputs_of(call), memory_cache=cache, conversation_ids=IDS, speaker_ids=speakers)
    expected = load_file(SAVED / name / "outputs.safetensors")
    for field in ("emotion_logits", "memory_surprise"):
        torch.testing.assert_close(output[field], expected[f"{call}.{field}"], **CLOSE)


@pytest.mark.parametrize("name", ["full", "adapter"])
@torch.no_grad()
def test_a_folder_gives_the_same_numbers(name):
    model = load_model(name)
    cache = ConversationMemoryCache(model.config, batch_size=ROWS)
    for call in range(CALLS - 1):
        assert_call_is_as_it_was(name, model, cache, call)
    saved = ConversationMemoryCache.from_pretrained(SAVED / name / "state", model.config)
    assert cache.conversation_ids == saved.conversation_ids
    assert cache.speaker_ids == saved.speaker_ids
    assert cache.tokens.tolist() == saved.tokens.tolist()
    for layer, expected in zip(cache.layers, saved.layers):
        for one, other in zip((*layer.weights, *layer.momentum), (*expected.weights, *expected.momentum)):
            assert other.any()
            torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("name", ["full", "adapter"])
@torch.no_grad()
def test_a_conversation_continues_from_its_state(name):
    model = load_model(name)
    cache = ConversationMemoryCache.from_pretrained(SAVED / name / "state", model.config)
    assert_call_is_as_it_was(name, model, cache, CALLS - 1)
    # It belongs to the memory that wrote it, and to no other one.
    with torch.no_grad():
        model.titans_memory.layers[0].read_gate.bias.add_(1.0)
    cache = ConversationMemoryCache.from_pretrained(SAVED / name / "state", load_model(name).config)
    with pytest.raises(ValueError, match="written by a memory with other weights"):
        assert_call_is_as_it_was(name, model, cache, CALLS - 1)


def test_a_live_conversation_continues_from_its_state():
    model = load_model("adapter")
    analyzer = ConversationAnalyzer(model, model.processor)
    analyzer.load(SAVED / "live")
    expected = json.loads((SAVED / "live" / "scores.json").read_text())
    turn = analyzer.push(tone(1.0), 16_000, speaker="B")
    scores = [turn.scores for turn in analyzer.history]
    assert scores[-1] == turn.scores
    for now, then in zip(scores, expected, strict=True):
        assert now == pytest.approx(then, abs=1e-4)


def test_a_configuration_loads():
    config = TitansMemoryConfig.from_pretrained(SAVED / "memory")
    wanted = {"layers": [0, 1], "num_heads": 2, "head_dim": 4, "depth": 2, "expansion": 2, "chunk_size": 3}
    wanted |= {"read": "chunk", "scope": "speaker", "max_speakers": 2, "step_rule": "normalized"}
    wanted |= {"feature_map": "identity", "step_bound": "token"}
    assert {name: getattr(config, name) for name in wanted} == wanted
