"""Archives of recordings: one result each, whatever is wrong with some of them, and not twice."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from audio_files import RATE, to_wav
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model, tiny_processor
from typer.testing import CliRunner

from titans_mal import ConversationAnalyzer, ConversationPool, load_audio
from titans_mal.archives import ArchiveRun, Recording, analyze_archive, find_recordings
from titans_mal.cli import app
from titans_mal.cli.analyze_batch import analyze_batch
from titans_mal.data.audio_paths import SUFFIXES


CLIPS = sorted((Path(__file__).resolve().parents[2] / "examples/quickstart/conversation").glob("turn_*.wav"))[2:4]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A call with a diarisation, one without, a call of two channels, silence, noise and a text."""
    folder = tmp_path_factory.mktemp("archive")
    one, other = (load_audio(path) for path in CLIPS)
    pause = np.zeros(RATE, np.float32)
    call = np.concatenate([pause, one, pause, other, pause])
    (folder / "a").mkdir()
    (folder / "a" / "call.wav").write_bytes(to_wav(call))
    (folder / "call.wav").write_bytes(to_wav(call))
    end = len(one) / RATE
    lines = [
        f"SPEAKER call 1 {start:.3f} {end:.3f} <NA> <NA> {name} <NA> <NA>" for start, name in ((1, "A"), (2, "B"))
    ]
    (folder / "call.rttm").write_text("\n".join(lines))
    (folder / "stereo.FLAC").write_bytes(to_wav(np.stack([call, np.roll(call, RATE)])))
    (folder / "silent.wav").write_bytes(to_wav(np.full(RATE, 1e-4, np.float32)))
    (folder / "broken.mp3").write_bytes(b"no audio")
    (folder / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def parts():
    return tiny_model(), tiny_processor()


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_formats_of_corpora_are_recordings_of_an_archive(tmp_path):
    for suffix in (*SUFFIXES, ".WAV", ".txt", ".rttm"):
        (tmp_path / f"call{suffix}").touch()
    (tmp_path / "._call.wav").touch()  # written by macOS beside a file
    assert {recording.path.suffix for recording in find_recordings(tmp_path)} == {*SUFFIXES, ".WAV"}


def test_what_is_an_archive(archive, tmp_path):
    names = [recording.name for recording in find_recordings(archive)]
    assert names == ["a/call.wav", "broken.mp3", "call.wav", "silent.wav", "stereo.FLAC"]
    listed = archive / "list.txt"
    listed.write_text(f"a/call.wav\n\n{CLIPS[0]}\nmissing.wav\na/call.wav\n", encoding="utf-16")
    found = find_recordings(listed)
    listed.unlink()
    assert [recording.path.name for recording in found] == ["call.wav", CLIPS[0].name, "missing.wav"]
    assert found[0].name == "a/call.wav"
    assert found[1].name.startswith(f"{CLIPS[0].name}-")
    with pytest.raises(ValueError, match="has no recordings"):
        find_recordings(tmp_path)
    with pytest.raises(FileNotFoundError):
        find_recordings(tmp_path / "none")


def test_one_result_each(archive, parts, tmp_path, monkeypatch):
    run = ArchiveRun(tmp_path, {"model": "m"})
    recordings = [*find_recordings(archive), Recording(archive / "missing.wav", "missing.wav")]
    with ConversationPool(*parts) as pool:
        analyze_archive(recordings, pool, run)
        assert pool.names() == []
        assert run.write_tables(recordings) == (6, 3)
    call = json.loads((tmp_path / "call.wav.json").read_text())
    assert [(turn["speaker"], turn["start"]) for turn in call["turns"]] == [("A", 1.0), ("B", 2.0)]
    analyzer = ConversationAnalyzer(*parts)
    alone = [analyzer.push(f"{archive / 'call.wav'}#t={s},{turn['end']}", speaker=turn["speaker"], start=s)
             for turn in call["turns"] for s in (turn["start"],)]  # fmt: skip
    for turn, other in zip(call["turns"], alone, strict=True):
        assert turn["scores"] == pytest.approx(other.scores, abs=1e-5)
    assert len(json.loads((tmp_path / "a" / "call.wav.json").read_text())["turns"]) == 2
    summary = {Path(row["recording"]).relative_to(archive).as_posix(): row for row in rows(tmp_path / "summary.csv")}
    assert {name: int(row["turns"]) for name, row in summary.items()}["a/call.wav"] == 2
    assert (summary["call.wav"]["speakers"], summary["silent.wav"]["problems"]) == ("2", "1")
    problems = {Path(row["recording"]).name: row["problem"] for row in rows(tmp_path / "problems.csv")}
    assert {*problems} == {"silent.wav", "broken.mp3", "missing.wav"}
    assert problems["silent.wav"] == "no speech was found"

    # Again: only what has no turn is tried.
    tried = []
    monkeypatch.setattr("titans_mal.archives._result_of", lambda recording, *others: tried.append(recording.name))
    monkeypatch.setattr(ArchiveRun, "write", lambda *others: None)
    with ConversationPool(*parts) as pool:
        analyze_archive(recordings, pool, ArchiveRun(tmp_path, {"model": "m"}))
    assert sorted(tried) == ["broken.mp3", "missing.wav", "silent.wav"]
    with pytest.raises(ValueError, match="results with a different model"):
        ArchiveRun(tmp_path, {"model": "other"})


def test_an_archive_is_continued_with_the_same_weights(tmp_path):
    ArchiveRun(tmp_path / "earlier", {"model": "m"})
    ArchiveRun(tmp_path / "earlier", {"model": "m", "weights": "a"})
    ArchiveRun(tmp_path / "now", {"model": "m", "weights": "a"})
    ArchiveRun(tmp_path / "now", {"model": "m", "weights": "a"})
    with pytest.raises(ValueError, match="results with a different weights"):
        ArchiveRun(tmp_path / "now", {"model": "m", "weights": "b"})


def test_segments_that_cannot_be_used_are_listed(archive, parts, tmp_path):
    call = tmp_path / "call.wav"
    call.write_bytes((archive / "call.wav").read_bytes())
    line = "SPEAKER call 1 {} 0.5 <NA> <NA> A <NA> <NA>"
    (tmp_path / "call.RTTM").write_text("\n".join(map(line.format, ("1", "900", "soon", "1.2"))))
    run = ArchiveRun(tmp_path / "out", {})
    with ConversationPool(*parts) as pool:
        analyze_archive([Recording(call, "call.wav")], pool, run)
    (result,) = [json.loads((tmp_path / "out" / "call.wav.json").read_text())]
    assert [turn["start"] for turn in result["turns"]] == [1.0, 1.2]
    unreadable, outside = result["problems"]
    assert "line 3: a time must be" in unreadable
    assert "line 2: 900.000 to 900.500 s" in outside


def test_channels_of_an_archive(archive, parts, tmp_path):
    recordings = [Recording(archive / name, name) for name in ("stereo.FLAC", "a/call.wav")]
    with ConversationPool(*parts) as pool:
        analyze_archive(recordings, pool, ArchiveRun(tmp_path, {}), speakers=["caller", "agent"])
    stereo, mono = (json.loads((tmp_path / f"{recording.name}.json").read_text()) for recording in recordings)
    assert {turn["speaker"] for turn in stereo["turns"]} == {"caller", "agent"}
    assert "has 1 channels" in mono["problems"][0]


def test_the_command_names_the_weights(archive, parts, tmp_path):
    other = tmp_path / "model"
    for part in parts:
        part.save_pretrained(other)
    command = ["analyze", "--batch", str(archive), "--output-dir", str(tmp_path / "out"), "--model", str(other)]
    assert CliRunner().invoke(app, command).exit_code == 0
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "titans_memory" in name)
    save_file({**weights, name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "results with a different weights" in " ".join(again.stderr.split())


def test_the_command_over_several_processes(archive, tmp_path, monkeypatch):
    """What accelerate is asked to start is this very command; `make test-slow` starts it."""
    started = []

    class Done:
        returncode = 3

    monkeypatch.setattr(sys, "argv", ["titans-mal", "analyze", "--batch", "x"])
    monkeypatch.setattr("subprocess.run", lambda command, env: started.append((command, env)) or Done())
    with pytest.raises(typer.Exit) as ended:
        analyze_batch(archive, tmp_path, "m", num_processes=2, channels=None, labels=None, unknown_below=0.0)
    ((command, env),) = started
    assert ended.value.exit_code == 3
    assert command[command.index("--num_processes") + 1] == "2"
    assert command[-5:] == ["-m", "titans_mal.cli", "analyze", "--batch", "x"]
    assert int(env["OMP_NUM_THREADS"]) >= 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--batch", "x"], "--batch needs --output-dir"),
        (["--batch", "x", "--both", "--output-dir", "y"], "--batch can be combined only with"),
    ],
)
def test_what_the_command_rejects(arguments, expected):
    result = CliRunner().invoke(app, ["analyze", "--model", "m", *arguments])
    assert result.exit_code == 1
    assert expected in result.stderr


@pytest.mark.slow
def test_an_archive_over_two_processes(archive, tmp_path):
    import subprocess

    command = [
        sys.executable,
        "-m",
        "titans_mal.cli",
        "analyze",
        "--batch",
        str(archive),
        "--output-dir",
        str(tmp_path),
    ]
    done = subprocess.run([*command, "--num-processes", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {row["problems"] for row in rows(tmp_path / "summary.csv")} == {"0", "1"}
    assert len(rows(tmp_path / "summary.csv")) == 5
