"""The Inference Endpoint: its answers, the conversations between requests, and requests that cannot be answered."""

import base64
import inspect
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from audio_files import encode
from tiny_models import save_base, stir, tone

from titans_mal import AudioEmotionPipeline, AutoModelForAudioEmotion, TitansMemoryConfig
from titans_mal.hub_cards.handler import MAX_TURNS, EndpointHandler


SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n"
LONG = encode(np.zeros(310 * 16_000), "flac", "flac")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with what its repository holds."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("model")
    save_base(base)
    memory = TitansMemoryConfig(layers=[0, 2], num_heads=2, head_dim=8, chunk_size=4)
    id2label = {0: "neutral", 1: "happy", 2: "sad", 3: "angry"}
    model = AutoModelForAudioEmotion.from_base(
        base, id2label=id2label, memory_config=memory, emotion_prompt="emotion ?"
    )
    torch.manual_seed(0)
    stir(model.titans_memory)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def handler(folder, monkeypatch):
    monkeypatch.setenv("MAX_LIVE_CONVERSATIONS", "2")
    return EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Bytes of three audio files."""
    import scipy.io.wavfile

    folder, recordings = tmp_path_factory.mktemp("recordings"), []
    for place, frequency in enumerate((180, 220, 300)):
        scipy.io.wavfile.write(folder / f"{place}.wav", 16_000, tone(0.6 + 0.2 * place, frequency=frequency))
        recordings.append((folder / f"{place}.wav").read_bytes())
    return recordings


def text(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def scores(answer):
    assert isinstance(answer, list), answer
    return [turn["scores"] for turn in answer]


def test_one_conversation_in_every_form(handler, recordings):
    """In one request, or turn by turn under a name, as bytes, as text or as turns."""
    whole = handler({"inputs": {"turns": [{"audio": text(audio), "speaker": "A"} for audio in recordings]}})
    assert [turn["turn_index"] for turn in whole] == [0, 1, 2]
    assert {*whole[0]} == {
        "turn_index", "speaker", "start", "end", "label", "score", "scores", "surprise", "processed_seconds",
    }  # fmt: skip
    json.dumps(whole)
    parameters = {"conversation": "call 17"}
    answers = [
        *handler({"inputs": recordings[0], "parameters": parameters}),
        *handler({"inputs": "data:audio/wav;base64," + text(recordings[1]), "parameters": parameters}),
        *handler({"inputs": {"audio": text(recordings[2])}, "parameters": {**parameters, "speaker": "A"}}),
    ]
    assert [turn["turn_index"] for turn in answers] == [0, 1, 2]
    assert scores(answers) == scores(whole)
    assert answers[2]["speaker"] == "A"
    # The history matters: alone, or after a reset, the last turn has other scores.
    alone = scores(handler({"inputs": recordings[2]}))
    assert alone != scores(answers)[2:]
    assert scores(handler({"inputs": [text(recordings[2])], "parameters": {**parameters, "reset": True}})) == alone
    assert handler({"inputs": None, "parameters": {**parameters, "reset": True}}) == []
    assert scores(handler({"inputs": recordings[2], "parameters": parameters})) == alone


def test_memory_can_be_left_out(handler, recordings, folder):
    pipe = AudioEmotionPipeline(model=handler.pipeline.model, processor=handler.pipeline.processor)
    answer = handler({"inputs": [text(audio) for audio in recordings], "parameters": {"memory": False}})
    assert scores(answer) == [turn["scores"] for turn in pipe(recordings, memory=False)]
    assert answer[0]["surprise"] is None


@pytest.mark.parametrize(
    ("inputs", "parameters", "reported"),
    [
        (None, {}, "inputs hold no audio"),
        ("", {}, "inputs hold no audio"),
        (b"no audio", {}, "cannot be decoded|not usable audio|Turn 1"),
        ("http://127.0.0.1/turn.wav", {}, "audio must be base64 if it is text"),
        ("/etc/passwd", {}, "URLs and paths are not supported|Turn 1"),
        (3, {}, "audio must be bytes or base64, got int"),
        ({"audio": "AAAA", "file": "x"}, {}, r"A turn must hold audio, and may hold .*'file'"),
        ({"turns": "AAAA"}, {}, "a list of turns and no other keys"),
        ({"turns": ["AAAA"] * (MAX_TURNS + 1)}, {}, "up to 64 turns, got 65"),
        ({"audio": "AAAA", "start": "now"}, {}, "start must be a number of seconds, got 'now'"),
        ({"audio": "AAAA", "start": float("nan")}, {}, "start must be a number of seconds, got nan"),
        ({"audio": "AAAA", "end": 10**400}, {}, "end must be a number of seconds"),
        ({"audio": "AAAA", "start": 2.0, "end": 1.0}, {}, "a turn must end after it starts"),
        ({"audio": "AAAA", "speaker": {"a": 1}}, {}, "speaker must be a name"),
        ({"audio": "AAAA", "speaker": True}, {}, "speaker must be a name"),
        ("good", {"speed": 2}, "parameters may hold conversation, reset, memory, speaker"),
        ("good", {"memory": "no"}, "memory must be true or false"),
        ("good", {"conversation": {"a": 1}}, "conversation must be a name"),
        ("good", [1], "parameters may hold"),
        (["good", b"no audio"], {}, "Turn 2"),
        ({"audio": "AAAA", "speaker": "x" * 5_000_000}, {}, "speaker must be a name of up to 200 characters"),
        ({"audio": "AAAA", "speaker": 10**1000}, {}, "speaker must be a name of up to 200 characters"),
        ({"audio": "AAAA", "speaker": ["x" * 5_000_000]}, {}, "speaker must be a name"),
        ({"audio": "AAAA", "x" * 5_000_000: 1, 5: 2}, {}, "A turn must hold audio, and may hold"),
        ("good", {"conversation": "x" * 201}, "conversation must be a name of up to 200 characters"),
        ("good", {"conversation": "\ud800"}, "conversation must be a name in UTF-8"),
        ("good", {"speaker": "\udfff"}, "speaker must be a name in UTF-8"),
        ("good", {"memory": "x" * 5_000_000}, "memory must be true or false"),
        ("good", {"x" * 5_000_000: 1}, "parameters may hold"),
        (SDP, {}, "cannot be decoded"),
        (LONG, {}, "is longer than the allowed 300 s"),
        (["good", {"audio": "good", "start": -1.0}], {}, "Entry 1: a turn must start at 0 s or later, got -1.0 s"),
    ],
)
def test_a_bad_request_is_reported_and_changes_no_state(handler, recordings, inputs, parameters, reported):
    def filled(value):
        if isinstance(value, list):
            return [filled(item) for item in value]
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return text(recordings[0]) if value == "good" else value

    named = {"conversation": "x", **parameters} if isinstance(parameters, dict) else parameters
    first = handler({"inputs": recordings[0], "parameters": {"conversation": "x", "reset": True}})
    answer = handler({"inputs": filled(inputs), "parameters": named})
    assert answer["status"] == 400
    with pytest.raises(AssertionError, match=reported):
        raise AssertionError(answer["error"])
    second = handler({"inputs": recordings[1], "parameters": {"conversation": "x"}})
    assert scores(first + second) == scores(handler({"inputs": [text(recordings[0]), text(recordings[1])]}))


def test_requests_of_another_kind(handler, recordings):
    for data in (None, [1], "x", {"inputs": recordings[0], "conversation": "x"}):
        assert "with inputs and, optionally, parameters" in handler(data)["error"]
    # A name that is in no alphabet of ours, and one that is a number.
    for name in ("\U0001f600", 17):
        for index in range(2):
            (turn,) = handler({"inputs": recordings[0], "parameters": {"conversation": name, "memory": None}})
            assert turn["turn_index"] == index
    for index in range(4):
        handler({"inputs": recordings[0], "parameters": {"conversation": f"another {index}"}})
    assert len(handler.store.live) == 2


def test_turns_overlap_between_requests(handler, recordings):
    """Who talks long ends last, and started first."""
    for index, start in enumerate((10.0, 1.0)):
        turn = {"audio": text(recordings[0]), "start": start, "end": 12.0 + index}
        (answer,) = handler({"inputs": turn, "parameters": {"conversation": "clock"}})
        assert (answer["turn_index"], answer["start"]) == (index, start)


def test_a_long_turn_can_be_several(handler):
    long = encode(np.concatenate([tone(2.5), np.zeros(1600), tone(2.0)]), "flac", "flac")
    parameters = {"conversation": "long", "split_long": True}
    one, two = (handler({"inputs": [long, long], "parameters": parameters}) for _ in range(2))
    assert [turn["turn_index"] for turn in one + two] == list(range(8))
    assert [turn["processed_seconds"] for turn in one] == [2.6, 2.0, 2.6, 2.0]
    assert handler({"inputs": long, "parameters": {"split_long": "yes"}})["status"] == 400


def test_reset_without_a_name_is_reported(handler):
    assert "reset needs conversation" in handler({"inputs": None, "parameters": {"reset": True}})["error"]


@pytest.mark.slow
def test_it_runs_with_published_packages_only(folder, recordings, tmp_path):
    """As an endpoint does: the repository in a folder, its handler imported from there, no titans_mal."""
    script = f"""
import sys
sys.modules["titans_mal"] = None
sys.path.insert(0, {str(tmp_path)!r})
import json
from handler import EndpointHandler
handler = EndpointHandler({str(folder)!r})
recordings = [open(path, "rb").read() for path in {[str(tmp_path / f"{i}.wav") for i in range(2)]!r}]
answers = [handler({{"inputs": audio, "parameters": {{"conversation": "x"}}}}) for audio in recordings]
handler.store.save()
print("answers:", json.dumps(answers))
"""
    shutil.copy(inspect.getfile(EndpointHandler), tmp_path / "handler.py")
    for place, audio in enumerate(recordings[:2]):
        (tmp_path / f"{place}.wav").write_bytes(audio)
    environment = {
        "HF_HOME": str(tmp_path / "home"),
        "PATH": os.environ["PATH"],
        "CONVERSATIONS_FOLDER": str(tmp_path),
    }
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout.rpartition("answers:")[2])
    handler = EndpointHandler(str(folder))
    expected = handler({"inputs": [text(audio) for audio in recordings[:2]]})
    for (one,), other in zip(answers, expected):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-6)
    assert len(list(tmp_path.glob("*/conversation_memory.safetensors"))) == 1
