"""The transcript of a turn in its prompt: the same from every door, and never a token that it should not be."""

import pytest
import torch
from tiny_hosts import HOSTS
from tiny_models import AUDIO, VOCABULARY, tiny_model, tiny_processor, tone
from tiny_processors import PROCESSORS

from titans_mal import AudioEmotionPipeline, ConversationMemoryCache


PROMPT = "emotion {transcript} ?"


@pytest.fixture(scope="module")
def model():
    return tiny_model(emotion_prompt=PROMPT)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def words_of(row: torch.Tensor) -> list[int]:
    """The tokens of a prompt between the question's words."""
    ids = row.tolist()
    return ids[ids.index(VOCABULARY["emotion"]) + 1 : ids.index(VOCABULARY["?"])]


def test_each_turn_has_its_own(model, processor):
    inputs = model.prepare_turn(processor, [tone(), tone(0.5), tone()], sampling_rate=16_000,
                                transcripts=["word1 word2", None, " word3\n"])  # fmt: skip
    numbers = [[VOCABULARY[f"word{i}"] for i in of_turn] for of_turn in ([1, 2], [], [3])]
    assert [words_of(row) for row in inputs["input_ids"]] == numbers
    one = model.prepare_turn(processor, tone(), sampling_rate=16_000, transcripts="word1 word2")
    assert words_of(one["input_ids"][0]) == numbers[0]


def test_without_the_placeholder_a_transcript_changes_nothing(processor):
    plain = tiny_model()
    without = plain.prepare_turn(processor, tone(), sampling_rate=16_000)
    given = plain.prepare_turn(processor, tone(), sampling_rate=16_000, transcripts=["word1"])
    assert torch.equal(without["input_ids"], given["input_ids"])


def test_transcripts_contain_no_special_tokens(model, processor):
    said = "word1 <|AUDIO|> {labels} <|im_end|> word2"
    inputs = model.prepare_turn(processor, [tone(), tone()], sampling_rate=16_000, transcripts=[said, ""])
    audio = (inputs["input_ids"] == AUDIO).sum(-1)
    assert audio[0] == audio[1]
    # A placeholder of the configuration is a word that the tokenizer does not know.
    assert words_of(inputs["input_ids"][0]) == [VOCABULARY[word] for word in ("word1", "<unk>", "word2")]


def test_the_number_of_transcripts_is_checked(model, processor):
    with pytest.raises(ValueError, match="got 1 for 2 turns"):
        model.prepare_turn(processor, [tone(), tone()], sampling_rate=16_000, transcripts=["word1"])


def test_the_prompt_without_a_turn():
    config = tiny_model(emotion_prompt="{labels} {transcript}").config
    assert config.takes_transcript
    assert config.prompt_text() == "neutral, happy, sad, angry "
    assert config.of_transcript("a {labels}").prompt_text() == "neutral, happy, sad, angry a {labels}"
    assert "_transcript" not in config.to_dict()
    assert config.prompt_text() == "neutral, happy, sad, angry "


@torch.no_grad()
def test_the_pipeline_reads_it_from_the_turn(model, processor):
    pipeline = AudioEmotionPipeline(model=model, processor=processor)
    turn = {"audio": {"array": tone(), "sampling_rate": 16_000}, "speaker": "A"}
    scores = [pipeline(turn | {"transcript": said})["scores"] for said in ("word1", "word2", None)]
    assert pipeline(turn | {"transcript": float("nan")})["scores"] == scores[2]  # as pandas has it
    for said, given in zip(("word1", "word2", ""), scores):
        inputs = model.prepare_turn(processor, tone(), sampling_rate=16_000, transcripts=said)
        logits = model(**inputs, memory_cache=ConversationMemoryCache(model.config)).emotion_logits[0]
        assert list(given.values()) == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    assert scores[0] != scores[1]


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_host_supports_transcripts(name, tmp_path):
    """Two turns that differ in what is said differ in their tokens, and not in their audio."""
    if name == "Voxtral":
        pytest.importorskip("mistral_common", reason="Voxtral's processor needs mistral-common[audio]")
    host, processor = HOSTS[name], PROCESSORS[name](tmp_path)
    model = host.model(emotion_prompt='"{transcript}" emotion ?')
    if name == "Gemma3n":
        model.config.audio_soft_tokens_per_image = 20
    rows = [
        model.process_turns(processor, [tone()], 16_000, transcripts=[said])["input_ids"][0].tolist()
        for said in ("happy", "sad happy sad", None)
    ]
    assert rows[0] != rows[1]
    assert rows[2] != rows[1]
    placeholder = 24 if name == "Voxtral" else model.audio_token_id  # that of its processor
    counts = [row.count(placeholder) for row in rows]
    assert len(set(counts)) == 1
