"""The page of accepted inputs: every cell of its tables is tried."""

import io
import json
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from audio_files import RATE, encode, to_wav
from fastapi.testclient import TestClient
from scipy.io import wavfile
from tiny_models import tiny_model, tiny_processor, tone

from titans_mal import AudioEmotionPipeline, ConversationAnalyzer, ConversationPool, load_audio, load_conversations
from titans_mal.data.problems import LEFT_OUT
from titans_mal.data.recordings import load_recording
from titans_mal.server import create_app


PAGE = Path(__file__).resolve().parents[2] / "examples" / "documentation" / "pages" / "inputs.md"


def tables() -> list[dict[str, dict[str, str]]]:
    """The outcome of each input at each entry point, for each table of outcomes."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        header, _, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines())
        if header[0] != "column":
            found.append({row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows})
    return found


AUDIO, TURNS = tables()


def float_wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate, np.asarray(samples, np.float32).T)
    return file.getvalue()


def lying_flac() -> bytes:
    data = bytearray(encode(tone(0.5), "flac", "flac"))
    data[22:26] = struct.pack(">I", round(0.3 * RATE))
    return bytes(data)


FLOATS = tone(0.5)
FAST = tone(0.5, rate=48_000)
PCM = np.round(FLOATS * 32768).astype(np.int16)
BROKEN = np.where(np.arange(len(FLOATS)) == 100, np.nan, FLOATS)
DIFFERENT = np.stack([FLOATS, tone(0.5, frequency=523.0)])
THREE = np.stack([*DIFFERENT, tone(0.5, frequency=300.0)])
# The array with its rate, and the bytes of a file; None where there is no such thing.
RECORDINGS = {
    "floats, full scale 1.0": ((FLOATS, RATE), float_wav(FLOATS)),
    "16-bit integers": ((PCM, RATE), to_wav(FLOATS)),
    "16-bit samples in wider integers": ((PCM.astype(np.int64), RATE), None),
    "24-bit samples in 32-bit integers": ((PCM.astype(np.int32) << 8, RATE), None),
    "16-bit samples in floats": ((PCM.astype(np.float32), RATE), float_wav(PCM)),
    "a list of numbers": ((FLOATS.tolist(), RATE), None),
    "a tensor in bfloat16": ((torch.from_numpy(FLOATS).bfloat16(), RATE), None),
    "(rate, array), as returned by Gradio": ((RATE, PCM), None),
    "a peak above 100 times full scale": ((FLOATS * 1e19, RATE), float_wav(FLOATS * 1e19)),
    "a sample that is not finite": ((BROKEN, RATE), float_wav(BROKEN)),
    "silence": ((np.zeros(8000), RATE), to_wav(np.zeros(8000))),
    "no samples": ((np.zeros(0), RATE), to_wav(np.zeros(0))),
    "0.05 s": ((tone(0.05), RATE), to_wav(tone(0.05))),
    "more than the host's window": ((tone(3.5), RATE), to_wav(tone(3.5))),
    "the same, split": ((tone(3.5), RATE), to_wav(tone(3.5))),
    "another sampling rate, such as 48 kHz": ((FAST, 48_000), to_wav(FAST, 48_000)),
    "a sampling rate below 1 kHz": ((FLOATS, 100), float_wav(FLOATS, 100)),
    "two identical channels": ((np.stack([FLOATS, FLOATS]), RATE), to_wav(np.stack([FLOATS, FLOATS]))),
    "two different channels": ((DIFFERENT, RATE), to_wav(DIFFERENT)),
    "three different channels": ((THREE, RATE), to_wav(THREE)),
    "5.1 channels of a film": (None, encode(np.concatenate([THREE, THREE / 2]), "flac", "flac", layout="5.1")),
    "(samples, channels), as returned by soundfile": ((DIFFERENT.T, RATE), None),
    "a header that declares too few samples": (None, lying_flac()),
    "a truncated file": (None, to_wav(FLOATS)[:-4000]),
    "an unsupported container": (None, encode(FLOATS, "pcm_s16le", "nut")),
    "a playlist or a text file": (None, b"#EXTM3U\n#EXTINF:1,\nother.wav\n#EXT-X-ENDLIST\n"),
    "a Git LFS pointer": (None, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """By name, what takes the array with its rate and the file, and gives what came of it."""
    model, processor = tiny_model(), tiny_processor()
    pipe = AudioEmotionPipeline(model=model, processor=processor)
    app = create_app(ConversationPool(model, processor))

    def push_stream(audio, file, **given):
        samples, rate = audio
        given["ends"] = [max(0.1, len(samples) / rate)]
        return [*ConversationAnalyzer(model, processor).push_stream([samples], rate, **given)] or None

    def post(client, **query):
        def send(audio, file):
            answer = client.post("/conversations/call/turns", content=file, params={"reset": True, **query})
            if answer.status_code == 422:
                raise ValueError(answer.text)
            assert answer.status_code == 200, answer.text
            return answer.json()

        return send

    def read_clip(audio, file, **given):
        folder = tmp_path_factory.mktemp("table")
        (folder / "a.wav").write_bytes(to_wav(FLOATS))
        (folder / "b.wav").write_bytes(file)
        lines = ["file_name,conversation_id,turn_index,speaker,emotion", "a.wav,call,0,A,sad", "b.wav,call,1,B,sad"]
        (folder / "metadata.csv").write_text("\n".join(lines))
        return problems_of(load_conversations(folder, decode=True, **given))

    with TestClient(app) as client:
        yield {
            "array": lambda audio, file: load_audio(audio),
            "file, bytes": lambda audio, file: load_audio(file),
            "table": read_clip,
            "pipeline": lambda audio, file: pipe(file if audio is None else audio),
            "live turn": lambda audio, file: ConversationAnalyzer(model, processor).push(
                *((file,) if audio is None else audio)
            ),
            "stream": push_stream,
            "HTTP": post(client),
            "pipe": pipe,
            "split": {
                "array": lambda audio, file: load_audio(audio),
                "file, bytes": lambda audio, file: load_audio(file),
                "table": lambda audio, file: read_clip(audio, file, split_longer_than=3.0),
                "pipeline": lambda audio, file: pipe(audio, split_long=True),
                "live turn": lambda audio, file: ConversationAnalyzer(model, processor).push_split(*audio),
                "stream": lambda audio, file: push_stream(audio, file, split_long=True),
                "HTTP": post(client, split_long=True),
            },
            "post": lambda **query: post(client, **query)(None, to_wav(FLOATS)),
        }


def outcome(door, *given) -> str:
    """What becomes of an input: a word of the page."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = door(*given)
        except ValueError:
            return "rejected"
    if result is None:
        return "skipped"
    return "warned" if any(issubclass(warning.category, UserWarning) for warning in warned) else "accepted"


def test_every_row_is_tried():
    assert (set(AUDIO), set(TURNS)) == (set(RECORDINGS), set(WRITTEN))


@pytest.mark.parametrize("name", AUDIO)
def test_audio(doors, name):
    audio, file = RECORDINGS[name]
    lacking = dict.fromkeys(("array", "stream"), audio is None) | dict.fromkeys(
        ("file, bytes", "table", "HTTP"), file is None
    )
    lacking["stream"] |= "Gradio" in name
    through = doors["split"] if name.endswith(", split") else doors
    found = {door: "" if lacking.get(door) else outcome(through[door], audio, file) for door in AUDIO[name]}
    assert found == AUDIO[name]


# The start and end of the second of two turns, the first from 0.2 to 1.2 s of a recording of 3 s, and its speaker.
WRITTEN = {
    "overlapping turns": (0.5, 1.4, "B"),
    "a turn inside the turn before it": (0.5, 0.9, "B"),
    "a start of -0.05 s": (-0.05, 0.9, "B"),
    "a start of -1 s": (-1.0, 0.9, "B"),
    "an end before its start": (1.4, 0.9, "B"),
    "an end 1 s after the recording": (1.4, 4.0, "B"),
    "times beyond the recording, such as milliseconds": (1400.0, 2000.0, "B"),
    "no speaker": (1.4, 2.0, ""),
    "a speaker of 10,000 letters": (1.4, 2.0, "B" * 10_000),
}


def read_table(folder: Path, start: float, end: float, speaker: str):
    (folder / "a.wav").write_bytes(to_wav(FLOATS))
    (folder / "b.wav").write_bytes(to_wav(FLOATS))
    lines = ["file_name,conversation_id,turn_index,speaker,emotion,start,end", "a.wav,call,0,A,sad,0.2,1.2"]
    (folder / "metadata.csv").write_text("\n".join([*lines, f"b.wav,call,1,{speaker},sad,{start},{end}"]))
    return problems_of(load_conversations(folder))


def read_segments(folder: Path, kind: str, start: float, end: float, speaker: str):
    (folder / "call.wav").write_bytes(to_wav(tone(3.0)))
    if kind == "rttm":
        times = ((0.2, 1.0, "A"), (start, end - start, speaker or "<NA>"))
        lines = [f"SPEAKER call 1 {s:g} {d:g} <NA> <NA> {name} <NA> <NA>" for s, d, name in times]
    elif kind == "json":
        given = ((0.2, 1.2, "A"), (start, end, speaker))
        lines = [json.dumps([dict(zip(("start", "end", "speaker"), turn)) for turn in given])]
    else:
        lines = ["start,end,speaker", "0.2,1.2,A", f"{start},{end},{speaker}"]
    (folder / f"call.{kind}").write_text("\n".join(lines))
    return problems_of(load_recording(folder / "call.wav", folder / f"call.{kind}"))


def problems_of(conversations):
    """None if a turn was skipped; with a warning if a turn was changed."""
    if any(problem.kind in LEFT_OUT for problem in conversations.problems):
        return None
    if conversations.problems:
        warnings.warn("listed", stacklevel=1)
    return conversations


@pytest.mark.parametrize("name", TURNS)
def test_turns(doors, name, tmp_path):
    start, end, speaker = WRITTEN[name]
    (tmp_path / "table").mkdir()
    turns = [{"audio": (FLOATS, RATE), "start": s, "end": e, "speaker": who} for s, e, who in ((0.2, 1.2, "A"),)]
    turns.append({"audio": (FLOATS, RATE), "start": start, "end": end, "speaker": speaker or None})
    tried = {
        "metadata.csv": lambda: read_table(tmp_path / "table", start, end, speaker),
        "segments, CSV": lambda: read_segments(tmp_path, "csv", start, end, speaker),
        "segments, JSON": lambda: read_segments(tmp_path, "json", start, end, speaker),
        "segments, RTTM": lambda: read_segments(tmp_path, "rttm", start, end, speaker),
        "pipeline": lambda: doors["pipe"](turns),
        "HTTP": lambda: doors["post"](start=start, **({"speaker": speaker} if speaker else {})),
    }
    assert {door: cell and outcome(tried[door]) for door, cell in TURNS[name].items()} == TURNS[name]
