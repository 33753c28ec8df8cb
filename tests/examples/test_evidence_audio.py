"""The audio form of the evidence: the front that runs once, the models, and the command, all at tiny sizes."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from titans_mal.data.synthetic import speak, synthetic_conversations
from titans_mal.data.synthetic.suites import SUITES


EVIDENCE = Path(__file__).parents[2] / "examples" / "evidence"
SEED = 5


@pytest.fixture(scope="module")
def modules():
    """The scripts, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EVIDENCE)
        names = ("spoken_suites", "audio_models", "prompt_history", "temporary_lora", "audio", "explore_audio")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def host(modules):
    return modules["spoken_suites"].load_host()


@pytest.fixture(scope="module")
def encoded(modules, host):
    """Three conversations of the baseline."""
    return modules["spoken_suites"].encode_suite(*host, SUITES["baseline"](), 3, SEED)[1]


def test_stored_encoder_features_give_the_logits_of_the_full_model(modules, encoded):
    model, processor = modules["spoken_suites"].load_host(seed=1)
    for layer in model.titans_memory.layers:
        torch.nn.init.normal_(layer.output_proj.weight, std=0.1)  # a fresh memory returns zeros
    rng = np.random.default_rng((SEED, 1))
    inputs = model.prepare_turn(processor, speak(SUITES["baseline"]().draw(rng), rng), sampling_rate=16_000)
    with torch.no_grad():
        whole = model(**inputs, conversation_ids=torch.zeros(8, dtype=torch.long)).emotion_logits
    cached = modules["audio_models"].memory_logits(model, encoded)[1]
    torch.testing.assert_close(cached, whole, rtol=0, atol=1e-4)
    assert (cached - encoded.host_logits[1]).abs().max() > 0.1


def test_a_table_gives_the_same_turns_as_its_suite(modules, host, encoded):
    table = synthetic_conversations(3, seed=SEED)
    from_table = modules["spoken_suites"].encode_table(*host, table, unscored=2)
    assert torch.equal(from_table.labels, encoded.labels)
    assert torch.equal(from_table.speakers, encoded.speakers)
    torch.testing.assert_close(from_table.host_logits, encoded.host_logits, rtol=0, atol=0.05)  # 16-bit audio


def test_untrained_memories_equal_the_host(modules, host, encoded):
    for how in ({}, {"resets": True}, {"writes": False}):
        logits = modules["audio_models"].memory_logits(host[0], encoded, **how)
        torch.testing.assert_close(logits, encoded.host_logits, rtol=0, atol=1e-4)


def test_without_turns_in_the_prompt_it_equals_utterance_only(modules, host, encoded):
    logits = modules["prompt_history"].history_logits(host[0], encoded, 0)
    torch.testing.assert_close(logits, encoded.host_logits, rtol=0, atol=1e-4)


def test_turns_in_the_prompt_are_exactly_the_last_ones(modules, host, encoded):
    history_logits = modules["prompt_history"].history_logits
    two, all_turns = history_logits(host[0], encoded, 2), history_logits(host[0], encoded, 8)
    torch.testing.assert_close(two[:, :3], all_turns[:, :3], rtol=0, atol=1e-4)
    assert ((two - all_turns)[:, 3:].abs().amax(-1) > 1e-3).all()
    last = history_logits(host[0], encoded[:, 5:], 8)[:, -1]
    torch.testing.assert_close(two[:, -1], last, rtol=0, atol=1e-4)


@pytest.mark.parametrize("history", [0, 2, 4, 8])
@pytest.mark.parametrize("turns", [8, 12])
def test_prompts_answer_each_turn_once(modules, turns, history):
    history_of = modules["prompt_history"]
    rng = np.random.default_rng(0)
    cuts = [
        history_of.windows(range(turns), history),
        *(history_of.tiles(range(turns), history, rng) for _ in range(9)),
    ]
    for stretches in cuts:
        answered = [turn for stretch in stretches for turn in stretch.turns[-stretch.answers :]]
        assert answered == list(range(turns))
        assert all(len(stretch.turns) <= history + 1 for stretch in stretches)


def test_a_prompt_may_hold_only_the_turns_of_one_speaker(modules, host, encoded):
    history_logits = modules["prompt_history"].history_logits
    own = history_logits(host[0], encoded, 8, by_speaker=True)
    speakers = encoded.speakers[0]
    mine = [turn for turn in range(len(speakers)) if speakers[turn] == speakers[0]]
    torch.testing.assert_close(own[:1, mine], history_logits(host[0], encoded[:1, mine], 8), rtol=0, atol=1e-4)
    assert (own - history_logits(host[0], encoded, 8))[:, 2:].abs().max() > 1e-3


def test_a_temporary_lora_starts_as_the_host_and_leaves_it(modules, encoded):
    model, _ = modules["spoken_suites"].load_host()
    logits = modules["temporary_lora"].temporary_logits(model, encoded, learning_rate=1e-2)
    torch.testing.assert_close(logits[:, 0], encoded.host_logits[:, 0], rtol=0, atol=1e-4)
    assert (logits - encoded.host_logits)[:, 1:].abs().max() > 0.1
    afterwards = modules["prompt_history"].history_logits(model, encoded, 0)
    torch.testing.assert_close(afterwards, encoded.host_logits, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_command_runs_with_every_baseline_and_resumes(modules, tmp_path, capsys):
    audio = modules["audio"]
    sizes = {"seeds": 2, "steps": 1, "conversations": 2, "test_conversations": 2, "output": tmp_path}
    audio.main("interleaved", baselines="all", **sizes)
    table = (tmp_path / "interleaved.md").read_text()
    found = json.loads((tmp_path / "interleaved.json").read_text())
    assert set(found["right"]) == set(audio.ENTRIES)
    assert len(found["right"]["memory"]) == 2
    assert all(f"| {entry.title} | " in table for entry in audio.ENTRIES.values())
    assert (tmp_path / "interleaved.png").stat().st_size > 0
    positions = [found["cost"][name]["positions"] for name in ("utterance", "memory", "prompt-2", "prompt-8")]
    assert positions[0] == positions[1] < positions[2] < positions[3]

    capsys.readouterr()
    audio.main("interleaved", baselines="all", **sizes)
    assert "loss" not in capsys.readouterr().out
    assert (tmp_path / "interleaved.md").read_text() == table


def test_a_command_prints_the_variants_that_were_tried(modules, tmp_path, capsys):
    tried = ["after block 0 alone", "keys and values from the block's input", "given the speaker"]
    sizes = {"steps": 1, "conversations": 2, "test_conversations": 2, "output": tmp_path}
    modules["explore_audio"].main("baseline", tried=";".join(tried), **sizes)
    rows = re.findall(r"^\| (.+?) \| [\d.]+ \| [+-]", capsys.readouterr().out, flags=re.MULTILINE)
    assert rows == ["as chosen", *tried]


def test_keys_of_a_variant_come_from_before_the_block(modules, encoded):
    model = modules["explore_audio"].with_memory(layer=importlib.import_module("variants").InputKeys, layers=[0])
    (layer,) = model.titans_memory.layers
    inputs = encoded[:1].turn_inputs()
    with torch.no_grad():
        model(**inputs)
    is_audio = inputs["input_ids"] == model.config.audio_token_index
    for row, audio in enumerate(is_audio):
        torch.testing.assert_close(layer.received[row, : audio.sum()], inputs["inputs_embeds"][row, audio])
    after, written = torch.randn_like(layer.received), torch.ones(layer.received.shape[:2], dtype=torch.bool)
    projected = layer._project(after, written)
    of_input = super(type(layer), layer)._project(layer.input_norm(layer.received), written)
    of_output = super(type(layer), layer)._project(after, written)
    for name in ("keys", "values", "queries"):
        expected = getattr(of_output if name == "queries" else of_input, name)
        assert torch.equal(getattr(projected, name), expected), name
