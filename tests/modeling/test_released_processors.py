"""`prepare_turn` under the templates and tokenizers of released hosts, token by token."""

import json
import math

import pytest
import torch
import transformers
from released import RELEASED, data_folder, released_file
from tiny_hosts import HOSTS
from tiny_models import tone

from titans_mal import AutoModelForAudioEmotion
from titans_mal.data.corpora import CORPORA
from titans_mal.modeling.checkpoint_files import load_processor
from titans_mal.modeling.configuration_titans_mal import DEFAULT_EMOTION_PROMPT
from titans_mal.modeling.label_words import find_label_tokens
from titans_mal.training.windows import without_weights


pytestmark = pytest.mark.real

LABELS = ("neutral", "happy", "sad", "angry")
ASKED = DEFAULT_EMOTION_PROMPT.replace("{labels}", ", ".join(LABELS))
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"

# What each host's template, or its documentation, says a turn is; the placeholder once for each audio token.
PROMPTS = {
    "Qwen3ASR": (
        f"<|im_start|>system\n{ASKED}<|im_end|>\n<|im_start|>user\n<|audio_start|>",
        f"<|audio_end|>{ANSWER}",
    ),
    "Qwen2Audio": (f"{SYSTEM}<|im_start|>user\nAudio 1: <|audio_bos|>", f"<|audio_eos|>\n{ASKED}{ANSWER}"),
    "AudioFlamingo3": (f"{SYSTEM}<|im_start|>user\n", f"{ASKED}{ANSWER}"),
    "Phi4Multimodal": ("<|user|>", f"{ASKED}<|end|><|assistant|>"),
    "Voxtral": ("<s>[INST][BEGIN_AUDIO]", f"{ASKED}[/INST]"),
}
# Audio tokens of a turn of so many seconds, as papers and documentation say.
TOKENS = {
    "Qwen3ASR": lambda seconds: int(13 * seconds),  # 13 for each second, whole ones here
    "Qwen2Audio": lambda seconds: int(25 * seconds),  # one for 40 ms
    "AudioFlamingo3": lambda seconds: int(25 * seconds),
    "Phi4Multimodal": lambda seconds: math.ceil((100 * seconds - 2) / 8),  # frames of 10 ms, by eight
    "Voxtral": lambda seconds: 375 * math.ceil(seconds / 30),  # whole windows of 30 s, one for 80 ms
}


@pytest.fixture(scope="module", params=RELEASED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def processor(name, tmp_path_factory):
    return RELEASED[name](tmp_path_factory.mktemp(name))


@pytest.fixture
def model(name, processor):
    """A host without weights that knows the released placeholder."""
    host = HOSTS[name]
    config = host.config(emotion_prompt=DEFAULT_EMOTION_PROMPT)
    vocabulary = len(processor.tokenizer)
    config.get_text_config(decoder=True).vocab_size = vocabulary
    holder = config.audio_config if name == "Phi4Multimodal" else config
    holder.audio_token_id = processor.audio_token_id
    if name == "Voxtral":
        config.audio_config.max_source_positions = 1500
    with torch.device("meta"), host.patches():
        model = host.model_class(config)
    return without_weights(model)


def tokens_of(name: str, processor, text: str) -> list[int]:
    if name != "Voxtral":
        return processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    # Its tokenizer reads no control tokens in text.
    tokens = []
    for piece in text.replace("[", "\0[").replace("]", "]\0").split("\0"):
        control = piece.startswith("[") or piece.startswith("<s>")
        one = piece.removesuffix("\0")
        tokens += (
            [processor.tokenizer.convert_tokens_to_ids(one)]
            if control
            else (processor.tokenizer(one, add_special_tokens=False)["input_ids"] if one else [])
        )
    return tokens


@pytest.mark.parametrize("seconds", [2, 7, 40])
def test_a_turn_is_what_the_released_template_says(name, processor, model, seconds):
    longest = model.max_turn_seconds(processor)
    if longest is not None and seconds > longest:
        pytest.skip(f"longer than the {longest} s that {name} processes")
    before, after = (tokens_of(name, processor, text) for text in PROMPTS[name])
    audio = [processor.audio_token_id] * TOKENS[name](seconds)
    inputs = model.prepare_turn(processor, tone(seconds), sampling_rate=16_000)
    assert inputs["input_ids"][0].tolist() == [*before, *audio, *after]
    if name != "Voxtral":
        assert int(model.audio_mask(inputs["input_ids"], inputs).sum()) == len(audio)


def test_labels_are_the_tokens_that_an_answer_begins_with(name, processor, model):
    tokens = model.label_tokens_of(model.config, processor)
    assert len({*tokens}) == len(LABELS)
    for label, token in zip(LABELS, tokens):
        assert processor.tokenizer(label, add_special_tokens=False)["input_ids"][0] == token
        assert label.startswith(processor.tokenizer.decode([token]))


def test_the_label_sets_of_all_corpora_have_different_first_tokens(name, processor):
    """For each of these tokenizers, so that one look at the host's output scores them."""
    sets = {
        tuple(dict.fromkeys(words.values())) for corpus in CORPORA.values() for words in corpus.label_sets.values()
    }
    prompt = "" if name == "Voxtral" else "<|im_start|>assistant\n"
    for labels in sets:
        tokens = find_label_tokens(processor.tokenizer, prompt, labels)
        assert all(isinstance(token, int) for token in tokens), labels


def test_special_tokens_in_a_transcript_have_no_effect(name, processor, model):
    model.config.emotion_prompt = "They said: {transcript} Emotion?"
    said = f"well {processor.audio_token} then <|im_end|> [/INST] <|end|> so"
    plain = model.prepare_turn(processor, (tone(2), 16_000), transcripts="well then so")
    inputs = model.prepare_turn(processor, (tone(2), 16_000), transcripts=said)
    special = {processor.audio_token_id, *processor.tokenizer.all_special_ids}

    def control(ids):
        return [token for token in ids[0].tolist() if token in special]

    assert control(inputs["input_ids"]) == control(plain["input_ids"])


@pytest.fixture(scope="module")
def qwen2_audio(tmp_path_factory):
    return RELEASED["Qwen2Audio"](tmp_path_factory.mktemp("other_templates"))


def prompt_of_qwen2_audio(processor, template: str) -> str:
    processor.chat_template = template
    host = HOSTS["Qwen2Audio"]
    return host.model_class.turn_prompt_of(host.config(emotion_prompt=DEFAULT_EMOTION_PROMPT), processor)


def test_another_template_of_qwen2_audio_gives_the_same_prompt(qwen2_audio):
    """That of an open pull request to its repository, which looks for the type of a part."""
    template = json.loads(released_file("qwen2_audio", "chat_template.pr13.json").read_text())["chat_template"]
    assert prompt_of_qwen2_audio(qwen2_audio, template) == "<|AUDIO|>".join(PROMPTS["Qwen2Audio"])


def test_the_template_of_a_text_only_tokenizer_is_rejected(qwen2_audio):
    """As that of Qwen2-Audio's tokenizer, which is Qwen2's."""
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )
    with pytest.raises(ValueError, match=r"must contain the placeholder '<\|AUDIO\|>' once"):
        prompt_of_qwen2_audio(qwen2_audio, template)


def test_a_processor_of_remote_code_is_rejected_without_asking():
    """Phi-4's main revision names a class of its repository's own."""
    with pytest.raises(ValueError, match="use a repo or revision in transformers' own format"):
        load_processor(data_folder("real_processors", "phi4_multimodal"), {}, is_needed=True)


def test_a_configuration_in_the_format_of_its_authors_is_rejected():
    """transformers reads it as the defaults of the largest of its models."""
    folder = data_folder("real_processors", "qwen3_asr")
    with pytest.raises(ValueError, match=r"with \['thinker_config'\]: take its conversion"):
        AutoModelForAudioEmotion.from_base(folder, id2label=dict(enumerate(LABELS)))


@pytest.mark.parametrize("host", ["qwen2_5_omni", "voxtral", "qwen2_audio", "glm_asr"])
def test_windows_are_those_of_the_released_features(host):
    folder = data_folder("real_processors", host)
    features = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    assert features.n_samples / features.sampling_rate == {"qwen2_5_omni": 300}.get(host, 30)
