"""From an audio file through each host's own processor and chat template to emotion scores."""

import numpy as np
import pytest
import tiny_processors
import torch
from tiny_hosts import LABEL_TOKENS, LABELS, MEL
from tiny_models import tone
from tiny_processors import PROCESSORS, model_for
from transformers import WhisperFeatureExtractor

from titans_mal import AudioEmotionPipeline, ConversationMemoryCache
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.training.windows import without_weights


@pytest.fixture(params=PROCESSORS)
def name(request):
    if request.param == "Voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's processor needs mistral-common[audio]")
    return request.param


@pytest.fixture
def processor(name, tmp_path):
    return PROCESSORS[name](tmp_path)


@pytest.fixture
def model(name, processor):
    return model_for(name, processor)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{seconds}.wav" for seconds in (0.9, 1.3)]
    for path, seconds in zip(paths, (0.9, 1.3)):
        path.write_bytes(to_wav(tone(seconds, frequency=100 + 100 * seconds)))
    return paths


@torch.no_grad()
def test_from_a_file_to_scores(model, processor, files):
    cache = ConversationMemoryCache(model.config)
    for path in files:
        inputs = model.prepare_turn(processor, path)
        audio = model.audio_mask(inputs["input_ids"], inputs)
        assert 2 <= audio.sum() <= 50
        output = model(**inputs, memory_cache=cache)
        assert output.emotion_logits.shape == (1, len(LABELS))
        assert output.emotion_logits.isfinite().all()
    assert cache.turns.tolist() == [2]
    assert model.generate(**inputs, memory_cache=cache, max_new_tokens=2).shape[0] == 1


@torch.no_grad()
def test_the_number_of_written_tokens_follows_the_audio_length(model, processor, files):
    """And not that of a window that it is padded to."""
    tokens = []
    for path in files:
        inputs = model.prepare_turn(processor, path)
        tokens.append(int(model.audio_mask(inputs["input_ids"], inputs).sum()))
    assert tokens[0] < tokens[1] < 2 * tokens[0]


@torch.no_grad()
def test_a_turn_does_not_depend_on_the_length_of_others_in_the_batch(name, model, processor, files):
    together = model(**model.prepare_turn(processor, files)).emotion_logits
    for row, path in enumerate(files):
        alone = model(**model.prepare_turn(processor, path)).emotion_logits
        torch.testing.assert_close(together[[row]], alone, rtol=0, atol=1e-4)


def test_the_labels_are_the_tokens_that_begin_them(name, model, processor):
    tokens = model.config.label_token_ids
    if name == "Voxtral":
        assert tokens == [processor.tokenizer.convert_tokens_to_ids(label[0]) for label in LABELS]
    else:
        assert tokens == LABEL_TOKENS


# Windows of 3 s in the tiny processors (two of them where a host puts several together), 30 s in Gemma's.
WINDOWS = dict.fromkeys(PROCESSORS) | {"Qwen2Audio": 3, "Qwen2_5Omni": 3, "Gemma3n": 30, "Gemma4": 30}
WINDOWS |= dict.fromkeys(("AudioFlamingo3", "MusicFlamingo", "GlmAsr"), 6)


@pytest.mark.filterwarnings("ignore:Audio duration")
def test_a_turn_longer_than_the_window_is_cut(name, model, processor):
    window = WINDOWS[name]
    assert model.max_turn_seconds(processor) == window

    def tokens(seconds):
        ids = model.prepare_turn(processor, tone(seconds), sampling_rate=16_000)["input_ids"]
        return int((ids == model.audio_token_id).sum())

    if window is None:
        assert tokens(7.0) > tokens(4.0) or name == "Voxtral"  # which pads both to 30 s
        return
    whole = tokens(window)
    with pytest.warns(UserWarning, match=f"its first {window} s are used"):
        assert tokens(window + 1.5) == whole


def test_the_question_is_in_the_prompt(name, model, processor):
    if name == "Voxtral":
        model.config.emotion_prompt = "sad?"
        asked = processor.tokenizer("sad?", add_special_tokens=False)["input_ids"]
    else:
        model.config.emotion_prompt = "sad ?"
        assert "sad ?" in model.turn_prompt_of(model.config, processor)
        asked = processor.tokenizer("sad ?", add_special_tokens=False)["input_ids"]
    ids = model.prepare_turn(processor, tone(1.0), sampling_rate=16_000)["input_ids"][0].tolist()
    assert any(ids[i : i + len(asked)] == asked for i in range(len(ids)))


@torch.no_grad()
def test_batches_are_padded_on_the_left_whatever_the_tokenizer_does(name, model, processor, files):
    processor.tokenizer.padding_side = "right"
    inputs = model.prepare_turn(processor, files)
    mask = inputs["attention_mask"]
    assert mask[:, -1].all()
    assert model(**inputs, logits_to_keep=1).emotion_logits.isfinite().all()


@pytest.mark.parametrize("kwargs", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
@torch.no_grad()
def test_beams_over_several_windows_write_the_audio(name, model, processor, kwargs):
    if name not in ("AudioFlamingo3", "MusicFlamingo", "GlmAsr"):
        pytest.skip(f"{name} processes one window a turn (Voxtral's are of 30 s)")
    turn = model.prepare_turn(processor, tone(5.0), sampling_rate=16_000)
    assert turn["input_features"].shape[0] == 2
    generated, expected = (ConversationMemoryCache(model.config) for _ in range(2))
    model.generate(**turn, memory_cache=generated, max_new_tokens=2, suppress_tokens=[model.audio_token_id], **kwargs)
    model(**turn, memory_cache=expected)
    for one, other in zip(generated.layers, expected.layers):
        for a, b in zip(one.weights, other.weights):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    two = model.prepare_turn(processor, [(tone(5.0), 16_000), (tone(1.0), 16_000)])
    with pytest.raises(ValueError, match="got 3 windows for 2 prompts: pass the prompts one by one"):
        model.generate(**two, max_new_tokens=2, **kwargs)


@pytest.fixture
def true_frames(monkeypatch):
    """Frames of 10 ms in windows of 30 s, as every host of the Hub has them."""
    monkeypatch.setattr(tiny_processors, "whisper_features", lambda: WhisperFeatureExtractor(feature_size=MEL))


# In seconds; what a host that is not named takes is the least of all.
SHORTEST = {"GlmAsr": 0.16, "Phi4Multimodal": 0.12, "Gemma3n": 0.2}


@torch.no_grad()
def test_short_turns_are_padded_to_the_hosts_minimum(true_frames, name, model, processor):
    """Also where it has longer tokens than others; alone, and beside longer ones."""
    if hasattr(processor, "max_audio_len"):
        processor.max_audio_len = 600
    assert model.min_turn_seconds(processor) == SHORTEST.get(name, 0.1)
    cache = ConversationMemoryCache(model.config)
    for seconds in (0.0005, 0.01, 0.06, 0.1, 0.15):
        turn = (tone(seconds, frequency=3_000) + np.float32(0.01), 16_000)
        inputs = model.prepare_turn(processor, turn)
        assert model.audio_mask(inputs["input_ids"], inputs).sum() >= 2
        if name in ("Qwen2Audio", "AudioFlamingo3", "MusicFlamingo"):
            continue  # whose tiny models take windows of 3 s
        output = model(**inputs, memory_cache=cache, update_memory=True)
        assert output.emotion_logits.isfinite().all()
        assert output.memory_surprise.isfinite().all()
    assert model.prepare_turn(processor, [turn, (tone(0.9), 16_000)])["input_ids"].shape[0] == 2


def test_the_pipeline_works_with_any_host(model, processor, files):
    turns = AudioEmotionPipeline(model=model, processor=processor)([str(path) for path in files])
    assert [turn["file"] for turn in turns] == [str(path) for path in files]
    assert all(abs(sum(turn["scores"].values()) - 1) < 1e-5 for turn in turns)


@torch.no_grad()
def test_turns_are_prepared_on_the_cpu_without_weights(name, model, processor, files):
    """As the workers of a training do; a model of the meta device has none."""
    expected = model.prepare_turn(processor, files)
    inputs = without_weights(model.to("meta")).prepare_turn(processor, files)
    assert inputs.keys() == expected.keys()
    for key in expected:
        assert torch.equal(inputs[key], expected[key]), key
