import numpy as np
import pytest
import torch
from tiny_models import AUDIO, CHAT_TEMPLATE, LABELS, tiny_model, tiny_processor, tone
from tokenizers.processors import TemplateProcessing

from titans_mal.data.synthetic.voices import to_wav


RATE = 16_000


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.mark.parametrize("prompt", ["emotion ?", "emotion {labels}"])
def test_the_prompt_is_that_of_the_config_under_the_hosts_chat_template(processor, prompt):
    model = tiny_model(emotion_prompt=prompt)
    inputs = model.prepare_turn(processor, (tone(), RATE))
    text = processor.tokenizer.decode([i for i in inputs["input_ids"][0].tolist() if i != AUDIO])
    expected = prompt.replace("{labels}", "neutral, happy, sad, angry")
    if prompt == "emotion ?":
        assert text == f"user <|audio_bos|> <|audio_eos|> {expected} assistant"
    assert model.turn_prompt_of(model.config, processor).endswith(f"{expected} assistant ")
    assert (inputs["input_ids"] == AUDIO).sum() == 25  # a second


def test_several_turns_are_rows(processor):
    model = tiny_model()
    inputs = model.prepare_turn(processor, [(tone(0.5), RATE), (tone(1.0), RATE)])
    assert (inputs["input_ids"] == AUDIO).sum(-1).tolist() == [12, 25]
    assert inputs["attention_mask"][0, 0] == 0  # padded on the left, where answers are not
    with torch.no_grad():
        together = model(**inputs).emotion_logits
        alone = model(**model.prepare_turn(processor, (tone(0.5), RATE))).emotion_logits
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
    assert together.shape == (2, len(LABELS))


def test_bare_arrays_need_their_rate(processor):
    model = tiny_model()
    bare = model.prepare_turn(processor, tone(), sampling_rate=RATE)
    assert torch.equal(bare["input_features"], model.prepare_turn(processor, (tone(), RATE))["input_features"])
    resampled = model.prepare_turn(processor, tone(rate=8_000), sampling_rate=8_000)
    assert resampled["input_ids"].shape == bare["input_ids"].shape
    with pytest.raises(ValueError, match="got ndarray"):
        model.prepare_turn(processor, tone())


def test_a_path_with_a_rate_is_a_path(processor, tmp_path):
    path = tmp_path / "turn.wav"
    path.write_bytes(to_wav(tone()))
    model = tiny_model()
    inputs = model.prepare_turn(processor, path, sampling_rate=8_000)
    assert torch.equal(inputs["input_features"], model.prepare_turn(processor, path)["input_features"])
    with pytest.raises(ValueError, match="at least one turn, got an empty list"):
        model.prepare_turn(processor, [])


@pytest.mark.parametrize("condition", ["'audio' in part", "part.type == 'audio'"])
def test_templates_that_look_for_the_key_or_for_the_type(condition):
    """Qwen2-Audio's own looks for the key `audio`; without it the turn would have no audio, without an error."""
    template = CHAT_TEMPLATE.replace("part['type'] == 'audio'", condition)
    processor = tiny_processor()
    processor.chat_template = template
    assert (tiny_model().prepare_turn(processor, (tone(), RATE))["input_ids"] == AUDIO).sum() == 25


def test_a_template_that_drops_the_prompt_is_rejected(processor):
    processor = tiny_processor()
    processor.chat_template = "{% for message in messages %}<|audio_bos|><|AUDIO|><|audio_eos|>{% endfor %}"
    with pytest.raises(ValueError, match=r"The chat template drops the prompt 'emotion \?'"):
        tiny_model().prepare_turn(processor, (tone(), RATE))


@pytest.mark.parametrize("times", [0, 2])
def test_a_template_that_does_not_write_the_audio_once_is_rejected(times):
    """As a tokenizer's own, which knows no audio."""
    processor = tiny_processor()
    processor.chat_template = CHAT_TEMPLATE.replace("<|AUDIO|>", "<|AUDIO|>" * times)
    with pytest.raises(ValueError, match=r"must contain the placeholder '<\|AUDIO\|>' once"):
        tiny_model().prepare_turn(processor, (tone(), RATE))


def test_a_template_with_the_bos_token_gets_no_second_one():
    processor = tiny_processor()
    processor.tokenizer.bos_token = "<s>"
    processor.tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", processor.tokenizer.bos_token_id)]
    )
    processor.chat_template = "<s>" + CHAT_TEMPLATE
    ids = tiny_model().prepare_turn(processor, (tone(), RATE))["input_ids"][0]
    assert (ids == processor.tokenizer.bos_token_id).sum() == 1


def test_inputs_are_in_the_models_dtype(processor):
    inputs = tiny_model().to(torch.bfloat16).prepare_turn(processor, (tone(), RATE))
    assert inputs["input_features"].dtype == torch.bfloat16
    assert inputs["input_ids"].dtype == torch.int64


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0), "empty"),
        (np.zeros(RATE), "silent"),
        (np.full(RATE, np.nan), "not finite"),
    ],
)
def test_unusable_audio_is_rejected(processor, audio, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().prepare_turn(processor, (audio, RATE))


def test_a_turn_of_fewer_than_two_audio_tokens_is_rejected(processor):
    """A host that makes none of any turn."""
    model = tiny_model()
    model.config.audio_token_id = AUDIO + 1
    with pytest.raises(
        ValueError, match=r"The turn of 1\.000 s is too short: the host produces fewer than two audio tokens"
    ):
        model.prepare_turn(processor, (tone(), RATE))


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.06])
def test_a_turn_below_the_hosts_minimum_is_padded_with_silence(processor, seconds):
    model = tiny_model()
    shortest = model.min_turn_seconds(processor)
    turn = tone(seconds, frequency=4_000) + np.float32(0.01)
    padded = np.pad(turn, (0, round(shortest * RATE) - len(turn)))
    short, expected = (model.prepare_turn(processor, (audio, RATE)) for audio in (turn, padded))
    assert shortest == 0.1
    assert all(torch.equal(short[name], expected[name]) for name in expected)


def test_one_warning_for_all_cut_turns(processor):
    with pytest.warns(UserWarning, match="are used") as warned:
        tiny_model().prepare_turn(processor, [(tone(seconds), RATE) for seconds in (4.0, 1.0, 5.0, 6.0, 7.0)])
    (message,) = [str(one.message) for one in warned]
    assert message == (
        "4 turns are longer than the host's window: The turn (4.0 s), The turn (5.0 s), The turn (6.0 s), ...; "
        "their first 3 s are used."
    )


def test_longer_than_the_window_is_cut_with_a_warning(processor):
    model = tiny_model()
    with pytest.warns(UserWarning, match=r"lasts 4\.0 s; its first 3 s are used"):
        long = model.prepare_turn(processor, (tone(4.0), RATE))
    cut = model.prepare_turn(processor, (tone(4.0)[: 3 * RATE], RATE))
    assert torch.equal(long["input_features"], cut["input_features"])
    assert torch.equal(long["input_ids"], cut["input_ids"])
