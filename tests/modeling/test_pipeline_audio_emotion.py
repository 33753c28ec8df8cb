import io
import warnings

import numpy as np
import pandas
import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny_models import LABELS, assert_same_state, state_of, tiny_host, tiny_model, tiny_processor, tone
from transformers import pipeline

from titans_mal import AudioEmotionPipeline, ConversationMemoryCache
from titans_mal.modeling.pipeline_audio_emotion import AudioTurnPipeline


RATE = 16_000
TURNS = [(tone(0.5 + 0.2 * i, frequency=150 + 40 * i), RATE) for i in range(4)]


@pytest.fixture(scope="module")
def pipe():
    return AudioEmotionPipeline(model=tiny_model(), processor=tiny_processor())


def scores(results):
    return np.array([[turn["scores"][label] for label in LABELS] for turn in results])


def test_one_dictionary_per_turn(pipe):
    results = pipe(TURNS)
    assert len(results) == 4
    for index, turn in enumerate(results):
        assert list(turn["scores"]) == list(LABELS)
        assert sum(turn["scores"].values()) == pytest.approx(1)
        assert turn["label"] == max(turn["scores"], key=turn["scores"].get)
        assert turn["score"] == turn["scores"][turn["label"]]
        assert turn["surprise"] > 0
        assert turn["turn_index"] == index
        assert {"file", "conversation_id", "speaker", "start", "end"} <= set(turn)


def test_equals_the_model(pipe):
    cache = ConversationMemoryCache(pipe.model.config)
    expected = []
    with torch.no_grad():
        for turn in TURNS:
            output = pipe.model(**pipe.model.prepare_turn(pipe.processor, turn), memory_cache=cache)
            expected.append(output.emotion_logits.softmax(-1)[0].tolist())
    np.testing.assert_allclose(scores(pipe(TURNS)), expected, atol=1e-5)


def test_a_live_conversation_equals_a_list(pipe):
    cache = ConversationMemoryCache(pipe.model.config)
    live = [pipe(turn, memory_cache=cache) for turn in TURNS]
    assert isinstance(live[0], dict)
    np.testing.assert_allclose(scores(live), scores(pipe(TURNS)), atol=1e-6)
    assert cache.turns.tolist() == [4]


def test_conversations_do_not_touch_each_other(pipe):
    mixed = [{"audio": turn, "conversation_id": "ab"[i % 2]} for i, turn in enumerate(TURNS)]
    results = pipe(mixed)
    np.testing.assert_allclose(scores(results)[::2], scores(pipe(TURNS[::2])), atol=1e-6)
    assert [turn["conversation_id"] for turn in results] == list("abab")
    with pytest.raises(ValueError, match="all turns must belong to one conversation"):
        pipe(mixed, memory_cache=ConversationMemoryCache(pipe.model.config))


def test_fields_come_back(pipe, tmp_path):
    path = tmp_path / "turn.wav"
    from titans_mal.data.synthetic.voices import to_wav

    path.write_bytes(to_wav(tone()))
    turn = {"audio": str(path), "speaker": "Ada", "start": 1.0, "end": 2.0, "turn_index": 7}
    result = pipe(turn)
    assert {name: result[name] for name in ("speaker", "start", "end", "turn_index", "file")} == {
        "speaker": "Ada", "start": 1.0, "end": 2.0, "turn_index": 7, "file": str(path),
    }  # fmt: skip
    assert pipe(path)["scores"] == pipe(path.read_bytes())["scores"] == result["scores"]


def test_without_memory_every_turn_is_alone(pipe):
    together = pipe(TURNS, memory=False)
    assert {turn["surprise"] for turn in together} == {None}
    np.testing.assert_allclose(scores(together), scores([pipe(turn, memory=False) for turn in TURNS]), atol=1e-6)
    assert np.abs(scores(together) - scores(pipe(TURNS))).max() > 1e-3


def test_speakers_have_their_own_memory_where_the_scope_says_so():
    pipe = AudioEmotionPipeline(model=tiny_model({"scope": "speaker", "max_speakers": 2}), processor=tiny_processor())
    named = [{"audio": turn, "speaker": "AB"[i % 2]} for i, turn in enumerate(TURNS)]
    alone = pipe([turn for turn in named if turn["speaker"] == "A"])
    np.testing.assert_allclose(scores(pipe(named))[::2], scores(alone), atol=1e-6)
    for nobody in (None, "", "  "):
        with pytest.raises(ValueError, match="Turn 1: A turn has no speaker, but speaker_ids are needed"):
            pipe([named[0], {"audio": TURNS[1], "speaker": nobody}])
    cache = ConversationMemoryCache(pipe.model.config)
    pipe(named, memory_cache=cache)
    before = state_of(cache)
    with pytest.raises(ValueError, match=r"Turn 0: .*can hold max_speakers=2 .* has \['A', 'B', 'C'\]"):
        pipe({"audio": TURNS[0], "speaker": "C"}, memory_cache=cache)
    assert_same_state(before, state_of(cache))


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ((0 * tone(), RATE), r"Turn 1.*silent"),
        (b"noise", r"Turn 1.*cannot be decoded"),
        ((np.full(RATE, np.nan), RATE), r"Turn 1.*not finite"),
    ],
)
def test_a_bad_turn_is_named_and_not_written(pipe, audio, message):
    cache = ConversationMemoryCache(pipe.model.config)
    with pytest.raises(ValueError, match=message):
        pipe([TURNS[0], audio, TURNS[1]], memory_cache=cache)
    expected = ConversationMemoryCache(pipe.model.config)
    pipe(TURNS[0], memory_cache=expected)
    assert_same_state(state_of(expected), state_of(cache))


def test_bad_turns_are_left_out_if_wanted(pipe):
    turns = [TURNS[0], (0 * tone(), RATE), b"noise", "missing.wav", TURNS[1]]
    with pytest.warns(UserWarning, match=r"3 of 5 turns are unusable and left out: Turn 1: .*silent.*; Turn 2.*; No"):
        results = pipe(turns, skip_unusable=True)
    assert [turn["turn_index"] for turn in results] == [0, 4]
    np.testing.assert_array_equal(scores(results), scores(pipe(TURNS[:2])))
    with pytest.raises(ValueError, match=r"Turn 0: .*silent"):
        pipe(turns[1], skip_unusable=True)


def test_turns_out_of_order_are_rejected(pipe):
    turns = [{"audio": turn, "turn_index": index} for turn, index in zip(TURNS, (3, 2))]
    with pytest.raises(ValueError, match="must come in order: entry 1 has turn_index=2 after 3"):
        pipe(turns)


def test_turns_overlap(pipe):
    """Who talks long ends last, and is not refused for having started first."""
    times = [(0.0, 1.0), (2.0, 3.0), (0.5, 8.0), (7.0, 8.5)]
    turns = [{"audio": turn, "start": start, "end": end} for turn, (start, end) in zip(TURNS, times)]
    results = pipe(turns)
    assert [(turn["start"], turn["end"]) for turn in results] == times
    np.testing.assert_array_equal(scores(results), scores(pipe(TURNS)))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"start": 2.0, "end": 1.0}, "Entry 1: a turn must end after it starts, got 2.0 to 1.0 s"),
        ({"start": -0.2}, "Entry 1: a turn must start at 0 s or later, got -0.2 s"),
        ({"start": float("nan")}, "Entry 1: start must be a number of seconds, got nan"),
        ({"end": float("inf")}, "Entry 1: end must be a number of seconds, got inf"),
        ({"start": "0:01"}, "Entry 1: start must be a number of seconds, got '0:01'"),
        ({"start": True}, "Entry 1: start must be a number of seconds, got True"),
        ({"start": 10**400}, "Entry 1: start must be a number of seconds, got 1000"),
    ],
)
def test_impossible_times(pipe, times, message):
    with pytest.raises(ValueError, match=message):
        pipe([TURNS[0], {"audio": TURNS[1], **times}])


@pytest.mark.parametrize(
    ("times", "warned"),
    [((1.0, 1.2), True), ((0.0, 0.1), True), ((0.0, 2.0), False), ((0.0, 2500.0), False), ((None, 1.0), False)],
)
def test_a_whole_recording_in_place_of_its_part(pipe, times, warned):
    turns = [TURNS[0], *({"audio": (tone(2.5), RATE), **dict(zip(("start", "end"), times))} for _ in range(2))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe(turns)
    found = [str(warning.message) for warning in caught]
    assert ["audio of 2 turns is much longer than their times, the first Turn 1" in text for text in found] == (
        [True] * warned
    )


def test_a_start_a_little_before_the_recording_is_its_beginning(pipe):
    with pytest.warns(UserWarning, match=r"Entry 0: .* got -0\.05 s: 0 s is used"):
        assert pipe([{"audio": TURNS[0], "start": -0.05, "end": 0.4}])[0]["start"] == 0.0


@pytest.mark.parametrize("seconds", [0.001, 0.06, 2.9])
def test_turns_that_are_processed_whole_say_so(pipe, seconds):
    turn = tone(seconds) + np.float32(0.01)
    assert pipe((turn, RATE))["processed_seconds"] == len(turn) / RATE


def test_unknown_fields_of_a_turn_are_rejected(pipe):
    with pytest.raises(ValueError, match=r"it also has \['speker'\]"):
        pipe({"audio": TURNS[0], "speker": "A"})
    # A row of a table of conversations is a turn; its label is not used.
    assert pipe({"audio": TURNS[0], "emotion": 1})["scores"] == pipe({"audio": TURNS[0], "emotion": 3})["scores"]


@pytest.mark.parametrize(("field", "value"), [("conversation_id", [1]), ("speaker", ["A"]), ("speaker", "B" * 201)])
def test_names_that_are_none(pipe, field, value):
    with pytest.raises(ValueError, match=f"{field} of entry 0"):
        pipe([{"audio": TURNS[0], field: value}])


def test_audio_as_transformers_has_it(pipe):
    raw = {"raw": TURNS[0][0], "sampling_rate": RATE}
    for given in (raw, {"audio": raw}, TURNS[0]):
        assert pipe([given])[0]["scores"] == pipe(raw)["scores"]
    with pytest.raises(ValueError, match=r"may also have sampling_rate and path, got \['speaker'\]"):
        pipe(raw | {"speaker": "A"})
    several = pandas.Series([TURNS[0], TURNS[1]])
    assert [turn["scores"] for turn in pipe(several)] == [turn["scores"] for turn in pipe(TURNS[:2])]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (io.BytesIO(b"RIFF\n"), "BytesIO is not audio or a list of turns: give its path, or its bytes"),
        ([{"audio": io.BytesIO(b"RIFF\n")}], "give its path, or its bytes"),
        (DatasetDict(test=Dataset.from_dict({"audio": []})), r"DatasetDict .* give one of its splits \['test'\]"),
        (pandas.DataFrame({"audio": ["a.wav"]}), r"give its rows, as to_dict\(\"records\"\) returns them"),
    ],
)
def test_what_is_no_turn_is_named(pipe, given, message):
    with pytest.raises(ValueError, match=message):
        pipe(given)
    if not isinstance(given, list):
        with pytest.raises(ValueError, match=message):
            AudioTurnPipeline(model=pipe.model, processor=pipe.processor)(given)


def test_a_model_without_memory_is_rejected_at_once(pipe):
    with pytest.raises(ValueError, match="needs a model with memory, got Qwen2AudioForConditionalGeneration"):
        AudioEmotionPipeline(model=tiny_host(), processor=pipe.processor)


def test_unknown_arguments_are_rejected(pipe):
    with pytest.raises(ValueError, match="memory_cache must be a ConversationMemoryCache, got int"):
        pipe(TURNS, memory_cache=5)
    with pytest.raises(ValueError, match="accepts memory_cache, memory, split_long and skip_unusable, got"):
        pipe(TURNS, top_k=2)


def test_a_long_turn_is_cut_with_a_warning(pipe):
    with pytest.warns(UserWarning, match=r"Turn 0 lasts 5.0 s; its first 3 s are used"):
        long = pipe((tone(5.0), RATE))
    assert long["processed_seconds"] == 3.0
    np.testing.assert_allclose(scores([long]), scores([pipe((tone(5.0)[: 3 * RATE], RATE))]), atol=1e-6)


def test_a_long_turn_can_be_several(pipe):
    """Each piece is scored as a turn of its own would be, after the one before it."""
    turn = np.concatenate([tone(2.5), np.zeros(1600, np.float32), tone(2.0, frequency=330.0)])
    pieces = pipe({"audio": (turn, RATE), "start": 10.0, "speaker": "A"}, split_long=True)
    ends = [round((piece["end"] - 10.0) * RATE) for piece in pieces]
    assert [piece["start"] for piece in pieces] == [10.0, pieces[0]["end"]]
    assert 2.5 * RATE <= ends[0] <= 2.6 * RATE
    assert ends[1] == len(turn)
    assert sum(piece["processed_seconds"] for piece in pieces) == len(turn) / RATE
    expected = pipe([(turn[: ends[0]], RATE), (turn[ends[0] :], RATE)])
    np.testing.assert_allclose(scores(pieces), scores(expected), atol=1e-6)
    assert {(piece["turn_index"], piece["speaker"]) for piece in pieces} == {(0, "A")}
    assert pipe(TURNS[0], split_long=True) == pipe(TURNS[0])


def test_registered_with_transformers(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    pipe = pipeline("audio-emotion", model=str(tmp_path))
    assert isinstance(pipe, AudioEmotionPipeline)
    expected = AudioEmotionPipeline(model=model, processor=tiny_processor())(TURNS)
    np.testing.assert_allclose(scores(pipe(TURNS)), scores(expected), atol=1e-6)
    assert len(pipeline("audio-emotion", model=model, processor=tiny_processor())(TURNS)) == 4
