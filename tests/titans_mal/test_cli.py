import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import audio_files
import numpy as np
import pytest
from tiny_models import LABELS, tiny_model, tiny_processor, tone
from typer.testing import CliRunner

import titans_mal
from titans_mal import load_audio, load_recording
from titans_mal.cli import app
from titans_mal.cli.analyze_outputs import draw_timelines
from titans_mal.cli.options import as_label_set
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.modeling.turn_scoring import TurnScorer
from titans_mal.quickstart import TINY_CHECKPOINT


FIELDS = ["file", "conversation_id", "turn_index", "speaker", "start", "end", "label", "score", "scores", "surprise"]
FIELDS += ["processed_seconds", "emotion", "transcript"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def conversations(tmp_path):
    folder = tmp_path / "talks"
    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "start", "end"])
        for number in range(6):
            (folder / f"{number}.wav").write_bytes(to_wav(tone(0.6, frequency=120 + 30 * number)))
            table.writerow(
                [f"{number}.wav", "ab"[number // 3], number % 3, "AB"[number % 2], "sad", number, number + 0.6]
            )
    return folder


def write_table(folder, rows: list[dict]) -> None:
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def analyze(*arguments) -> str:
    result = CliRunner().invoke(app, ["analyze", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_folder(conversations, checkpoint, tmp_path):
    out = tmp_path / "turns.json"
    printed = analyze(conversations, "--model", checkpoint, "--json", out)
    turns = json.loads(out.read_text())
    assert [list(turn) for turn in turns] == [FIELDS] * 6
    assert [turn["conversation_id"] for turn in turns] == list("aaabbb")
    assert [turn["turn_index"] for turn in turns] == [0, 1, 2] * 2
    assert [turn["speaker"] for turn in turns] == list("ABABAB")
    assert turns[4]["start"] == 4.0
    assert turns[4]["end"] == 4.6
    for turn in turns:
        assert turn["file"] == str(conversations / f"{round(turn['start'])}.wav")
        assert turn["label"] in LABELS
        assert sum(turn["scores"].values()) == pytest.approx(1)
        assert turn["surprise"] > 0
        assert re.search(rf"{turn['label']} {turn['score']:.0%}", printed)


def test_names_are_text_on_the_terminal(checkpoint, tmp_path):
    """Neither markup of rich nor commands of a terminal."""
    (tmp_path / "a.wav").write_bytes(to_wav(tone(0.6)))
    rows = [
        {"file_name": "a.wav", "conversation_id": "a", "turn_index": 0, "speaker": "[/b]\x1b[2JA", "emotion": "sad"}
    ]
    write_table(tmp_path, rows)
    assert "[/b]\\x1b[2JA" in analyze(tmp_path, "--model", checkpoint)
    printed = CliRunner().invoke(app, ["analyze", "[b]\x1b[2J.wav", "--model", checkpoint])
    assert "[b]\\x1b[2J.wav" in printed.output


def test_audio_files_in_order(conversations, checkpoint, tmp_path):
    out = tmp_path / "turns.json"
    files = [conversations / "2.wav", conversations / "0.wav"]
    analyze(*files, "--model", checkpoint, "--json", out)
    turns = json.loads(out.read_text())
    assert [turn["file"] for turn in turns] == [str(file) for file in files]
    assert [turn["turn_index"] for turn in turns] == [0, 1]
    assert turns[0]["conversation_id"] is turns[0]["speaker"] is turns[0]["start"] is None


def test_memory_belongs_to_a_conversation_and_can_be_left_out(conversations, checkpoint, tmp_path):
    on, off, alone = (tmp_path / name for name in ("on.json", "off.json", "alone.json"))
    analyze(conversations, "--model", checkpoint, "--json", on)
    analyze(conversations, "--model", checkpoint, "--json", off, "--no-memory")
    analyze(*(conversations / f"{i}.wav" for i in (3, 4, 5)), "--model", checkpoint, "--json", alone)
    on, off, alone = (json.loads(path.read_text()) for path in (on, off, alone))
    assert {turn["surprise"] for turn in off} == {None}
    assert on[2]["scores"] != off[2]["scores"]
    # The second conversation knows nothing of the first.
    for turn, expected in zip(on[3:], alone):
        assert turn["scores"] == pytest.approx(expected["scores"], abs=1e-6)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_timelines(conversations, checkpoint, tmp_path, suffix):
    printed = analyze(conversations, "--model", checkpoint, "--timeline", tmp_path / f"line.{suffix}")
    for name in "ab":
        path = tmp_path / f"line_{name}.{suffix}"
        assert path.stat().st_size > 1000
        assert str(path) in printed


def assert_fails(message, *arguments):
    result = CliRunner().invoke(app, ["analyze", *map(str, arguments)])
    assert result.exit_code == 1
    assert re.search(message, result.output)
    assert "Traceback" not in result.output


def test_errors_are_one_line(conversations, checkpoint, tmp_path):
    assert_fails("Error: .*nothing does not exist", tmp_path / "nothing", "--model", checkpoint)
    assert_fails(r"Error: .*has no metadata\.csv", tmp_path, "--model", checkpoint)
    assert_fails("Error: ", conversations, "--model", tmp_path / "no_model")


def test_turns_that_cannot_be_used_are_named_and_the_others_scored(conversations, checkpoint, tmp_path):
    """Not audio, no samples, silence: of a folder, of files and of segments."""
    broken = {"1.wav": b"RIFF", "2.wav": to_wav(np.zeros(0)), "4.wav": to_wav(np.zeros(8000))}
    for name, content in broken.items():
        (conversations / name).write_bytes(content)
    out = tmp_path / "turns.json"
    printed = analyze(conversations, "--model", checkpoint, "--json", out)
    assert [Path(turn["file"]).name for turn in json.loads(out.read_text())] == ["0.wav", "3.wav", "5.wav"]
    assert re.search(r"Warning: talks: turns that cannot be used \(2 broken\); the first is broken: .*1\.wav", printed)
    assert re.search(r"Warning: 1 of 4 turns are unusable and were skipped: Turn 1 \(.*4\.wav", printed)
    files = sorted(conversations.glob("*.wav"))
    printed = analyze(*files, "--model", checkpoint, "--json", out)
    assert [Path(turn["file"]).name for turn in json.loads(out.read_text())] == ["0.wav", "3.wav", "5.wav"]
    assert all(name in printed for name in broken)


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--timeline", "a.txt", r"cannot draw to 'a\.txt'"),
        ("--timeline", "nowhere/a.png", "the folder .*nowhere does not exist"),
        ("--json", "nowhere/a.json", "the folder .*nowhere does not exist"),
        ("--json", "", "is a folder: give the path of a file"),
    ],
)
def test_unwritable_outputs_are_reported_before_scoring(conversations, tmp_path, monkeypatch, option, name, message):
    monkeypatch.setattr("titans_mal.cli.analyze._analyze", lambda *args, **kwargs: pytest.fail("it went to work"))
    assert_fails(f"Error: .*{message}", conversations, "--model", "any", option, tmp_path / name)


def test_without_a_model_the_tiny_checkpoint_is_named_and_used(conversations):
    printed = " ".join(analyze(conversations / "0.wav").split())
    assert f"the tiny checkpoint is used ({TINY_CHECKPOINT})" in printed
    assert "for real speech, pass --model" in printed


def test_the_version_is_printed():
    assert CliRunner().invoke(app, ["--version"]).output == f"titans-mal {titans_mal.__version__}\n"


def test_a_failure_writes_no_json(conversations, checkpoint, tmp_path):
    for number in range(6):
        (conversations / f"{number}.wav").write_bytes(b"RIFF")
    out = tmp_path / "turns.json"
    assert_fails(
        "Error: talks: the split 'test' has no usable turn", conversations, "--model", checkpoint, "--json", out
    )
    assert not out.exists()


def test_gold_labels_are_shown_and_counted(conversations, checkpoint):
    printed = analyze(conversations, "--model", checkpoint)
    assert re.search(r"\d of 6 labelled turns correct", printed)
    assert "conversation" in printed
    labels = ["sad", "", "bored"]
    rows = [
        {"file_name": f"{i}.wav", "conversation_id": "a", "turn_index": i, "speaker": "A", "emotion": labels[i]}
        for i in range(3)
    ]
    write_table(conversations, rows)
    printed = analyze(conversations, "--model", checkpoint)
    assert re.search(r"\d of 1 labelled turns correct", printed)
    assert "turns with labels unknown to the model are not counted: bored" in printed


def test_a_table_needs_neither_labels_nor_times(conversations, checkpoint, tmp_path):
    # Names that a terminal's markup or a file system would trip over.
    rows = [
        {"file_name": f"{i}.wav", "conversation_id": f"x/{i % 2}", "turn_index": i, "speaker": "[/A]"}
        for i in range(3)
    ]
    write_table(conversations, rows)
    printed = analyze(conversations, "--model", checkpoint, "--timeline", tmp_path / "line.png")
    assert "[/A]" in printed
    assert "labelled turns correct" not in printed
    assert {path.name for path in tmp_path.glob("*.png")} == {"line_x_0.png", "line_x_1.png"}


def test_turns_that_are_cut_are_named_in_one_warning(conversations, checkpoint):
    for number in (0, 1):
        (conversations / f"{number}.wav").write_bytes(to_wav(tone(4.0)))
    printed = analyze(conversations / "0.wav", conversations / "1.wav", "--model", checkpoint)
    assert printed.count("Warning: ") == 1
    assert re.search(
        r"Warning: 2 turns are longer than the host's window: \S*0\.wav \(4\.0 s\), \S*1\.wav \(4\.0 s\); their "
        r"first 3 s",
        printed.replace("\n", " "),
    )


def test_broken_weights_are_one_line(conversations, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")
    assert_fails("Error: ", conversations, "--model", tmp_path / "model")


def run(*arguments, code=0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def test_checking_data(conversations, tmp_path):
    (conversations / "1.wav").write_bytes(b"RIFF")
    out = tmp_path / "check.json"
    printed = run("data", "check", conversations, "--json", out)
    assert re.search(r"turns +5", printed)
    assert "1 broken (dropped" in printed
    assert str(conversations / "1.wav") in printed
    counts = json.loads(out.read_text())
    assert counts["splits"]["test"]["labels"] == {"sad": 5}
    assert counts["problems"] == {"broken": 1}
    assert counts["listed"][0]["turn_index"] == 1
    assert "Error: IEMOCAP needs data_dir" in run("data", "check", "iemocap", code=1)


def test_evaluating_and_comparing(conversations, checkpoint, tmp_path):
    options = ["--resamples", 100, "--conditions", "memory,memory_off"]
    printed = run("evaluate", checkpoint, conversations, "--output", tmp_path / "report", *options)
    assert "| memory on |" in printed
    assert (tmp_path / "report" / "report.md").is_file()
    assert "WA, minus memory off" in run("compare", tmp_path / "report")
    assert "was given twice" in run("compare", tmp_path / "report", tmp_path / "report", code=1)
    run("compare", tmp_path / "report", "--output", tmp_path / "table.md")
    assert "WA, minus memory off" in (tmp_path / "table.md").read_text()
    other = ["--label-set", "sad", "--label-set", "sad,happy", *options]
    run("evaluate", checkpoint, conversations, "--output", tmp_path / "other", *other)
    rejected = run("compare", tmp_path / "report", tmp_path / "other", code=1)
    assert "Error: Reports of different protocols" in rejected
    assert "has no split 'dev'" in run(
        "evaluate", checkpoint, conversations, "--output", tmp_path / "x", "--split", "dev", code=1
    )


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (None, None),
        ("4-class", "4-class"),
        ("sad, happy", ["sad", "happy"]),
        ("exc=happy,sad = sad", {"exc": "happy", "sad": "sad"}),
    ],
)
def test_label_sets_as_typed(typed, given):
    assert as_label_set(typed) == given


def test_a_mapping_without_a_label():
    with pytest.raises(ValueError, match=r"\['sad'\] have none"):
        as_label_set("exc=happy,sad")


@pytest.fixture
def recording(tmp_path):
    file = tmp_path / "call.wav"
    file.write_bytes(to_wav(np.concatenate([tone(1.0, frequency=100 + 40 * i) for i in range(4)])))
    (tmp_path / "call.rttm").write_text(
        "".join(f"SPEAKER call 1 {i}.0 {1.0 if i else 0.05} <NA> <NA> {'AB'[i % 2]} <NA> <NA>\n" for i in range(4))
    )
    return file


def test_a_recording_with_segments(recording, checkpoint, tmp_path):
    out = tmp_path / "turns.jsonl"
    segments = ["--segments", recording.with_suffix(".rttm"), "--model", checkpoint]
    analyze(recording, *segments, "--format", "jsonl", "--output", out, "--labels", "sad,happy", "--unknown-below", 1)
    turns = [json.loads(line) for line in out.read_text().splitlines()]
    assert [turn["speaker"] for turn in turns] == list("ABAB")
    assert [turn["start"] for turn in turns] == [0.0, 1.0, 2.0, 3.0]
    assert {turn["label"] for turn in turns} == {"unknown"}
    assert [list(turn["scores"]) for turn in turns] == [["sad", "happy"]] * 4
    # The second is its part of the audio, scored after the first.
    table = load_recording(recording, recording.with_suffix(".rttm"))["test"]
    whole = load_audio(recording)
    np.testing.assert_array_equal(load_audio(table[1]["audio"]), whole[16_000:32_000])
    result = CliRunner().invoke(app, ["analyze", str(recording), *map(str, segments), "--format", "rttm"])
    assert result.exit_code == 0
    assert [line.split()[7] for line in result.stdout.splitlines()] == list("ABAB")


@pytest.mark.parametrize("options", [["--labels", "bored"], ["--unknown-below", "2"]])
def test_labels_are_checked_before_anything_is_scored(recording, checkpoint, options, monkeypatch):
    scored = []
    monkeypatch.setattr(TurnScorer, "score", lambda *args: scored.append(args))
    segments = ["--segments", str(recording.with_suffix(".rttm")), "--model", str(checkpoint)]
    result = CliRunner().invoke(app, ["analyze", str(recording), *segments, *options])
    assert result.exit_code == 1
    assert "must be" in result.stderr
    assert not scored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "xml"], "--format must be one of table, json, .* got 'xml'"),
        (["--output", "a.txt"], "--output needs a --format"),
        (["--labels", "bored", "--format", "csv"], "labels must be different labels out of"),
        (["--segments", "a.txt"], "Segments must be in a file of type"),
        (["--segments", "gone.rttm"], "No such file"),
    ],
)
def test_options_that_do_not_fit(recording, checkpoint, options, message):
    assert_fails(f"Error: .*{message}", recording, "--model", checkpoint, *options)


CLIPS = sorted((Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "conversation").glob("turn_*.wav"))[
    2:5
]


@pytest.fixture(scope="module")
def speech():
    """Three turns of the quickstart with pauses: (samples,) at 16 kHz, and when each begins."""
    parts, starts = [], []
    for path in CLIPS:
        parts.append(np.zeros(16_000, np.float32))
        starts.append(sum(map(len, parts)) / 16_000)
        parts.append(load_audio(path))
    return np.concatenate([*parts, parts[0]]), starts


def test_a_recording_without_segments_is_cut_at_its_pauses(speech, checkpoint, tmp_path):
    audio, starts = speech
    (tmp_path / "call.wav").write_bytes(to_wav(audio))
    out = tmp_path / "turns.json"
    analyze(tmp_path / "call.wav", "--model", checkpoint, "--speaker", "Ann", "--json", out)
    turns = json.loads(out.read_text())
    assert [turn["start"] for turn in turns] == pytest.approx(starts, abs=0.25)
    assert {turn["speaker"] for turn in turns} == {"Ann"}
    # Of speech without pauses, and of none, the file is one turn.
    (tmp_path / "tone.wav").write_bytes(to_wav(tone(1.0)))
    analyze(tmp_path / "tone.wav", "--model", checkpoint, "--json", out)
    assert len(json.loads(out.read_text())) == 1


def test_a_call_with_one_speaker_per_channel(checkpoint, tmp_path):
    audio = np.zeros((2, 9 * 16_000), np.float32)
    for path, channel, start in zip(CLIPS, (0, 1, 0), (1, 4, 4)):
        clip = load_audio(path)
        audio[channel, start * 16_000 :][: len(clip)] += clip
    (tmp_path / "call.wav").write_bytes(audio_files.to_wav(audio))
    out = tmp_path / "turns.json"
    analyze(tmp_path / "call.wav", "--channels", "caller, agent", "--model", checkpoint, "--json", out)
    turns = json.loads(out.read_text())
    assert sorted((turn["speaker"], round(turn["start"])) for turn in turns) == [
        ("agent", 4),
        ("caller", 1),
        ("caller", 4),
    ]
    assert [turn["end"] for turn in turns] == sorted(turn["end"] for turn in turns)
    assert {turn["conversation_id"] for turn in turns} == {"call"}
    for options, message in (
        (["--channels", "A"], "has 2 channels"),
        (["--channels", "A,B", "--speaker", "C"], "--speaker and --channels all define the speakers"),
        (["--crosstalk", "20"], "--crosstalk needs --channels"),
        (["--channels", "A,B", "--crosstalk", "-1"], "above 0, in dB"),
    ):
        assert_fails(message, tmp_path / "call.wav", "--model", checkpoint, *options)
    assert "two channels with different audio" in analyze(tmp_path / "call.wav", "--model", checkpoint)


def test_json_has_all_known_fields(conversations, checkpoint, tmp_path):
    rows = [
        {"file_name": f"{i}.wav", "conversation_id": "a", "turn_index": i, "speaker": "A"}
        | {"emotion": ["sad", "", "bored"][i], "transcript": ["Hello.", "", "Bye."][i]}
        for i in range(3)
    ]
    write_table(conversations, rows)
    out = tmp_path / "turns.json"
    printed = analyze(conversations, "--model", checkpoint, "--both", "--json", out, "--format", "jsonl")
    turns = json.loads(out.read_text())
    assert [turn["emotion"] for turn in turns] == ["sad", None, "bored"]
    assert [turn["transcript"] for turn in turns] == ["Hello.", None, "Bye."]
    assert all(list(turn["without_memory"]) == ["label", "score", "scores"] for turn in turns)
    assert turns[2]["without_memory"]["scores"] != turns[2]["scores"]
    assert '"without_memory"' in printed


def test_all_problems_of_data_are_listed(conversations, tmp_path):
    table = conversations / "metadata.csv"
    lines = table.read_text().splitlines()
    (conversations / "1.wav").write_bytes(b"RIFF")
    (conversations / "2.wav").unlink()
    table.write_text("\n".join([*lines, lines[1], "x.wav,b,soon" + lines[1][len("0.wav,a,0") :]]))
    printed = run("data", "check", conversations, "--json", tmp_path / "check.json").replace("\n", " ")
    counts = json.loads((tmp_path / "check.json").read_text())
    assert counts["problems"] == {"unreadable": 2, "missing": 1, "broken": 1}
    for found in (
        "2 unreadable",
        "line 8: conversation 'a' already has turn 0",
        "line 9: turn_index must be",
        "1 missing",
    ):
        assert found in printed
    # A of one conversation, and A and B of the other, are three people.
    assert counts["splits"]["test"]["speakers"] == 3
    assert counts["splits"]["test"]["speaker_names"] == 2
    table.write_text("\n".join([lines[0], "gone.wav" + lines[1][len("0.wav") :]]))
    printed = run("data", "check", conversations, code=1)
    assert "1 missing" in printed
    assert "no audio file 'gone.wav'" in printed


def test_every_conversation_has_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("titans_mal.timeline.draw_timeline", lambda turns, path, **given: path)
    names = ["a b", "a_b", "a_b_2", "\u611f" * 200, "\u611f" * 199]
    paths = [*draw_timelines([{"conversation_id": name} for name in names], None, tmp_path / "line.png", "embedded")]
    assert len({path.name for path in paths}) == len(names)
    assert all(len(path.name.encode()) < 255 for path in paths)


def test_splits_are_drawn(conversations, checkpoint, tmp_path):
    split = ["--split-by", "conversation", "--test-share", "0.5"]
    printed = run("data", "check", conversations, *split)
    assert re.search(r"conversations +1 +1", printed)
    options = ["--resamples", 100, "--conditions", "memory"]
    printed = run("evaluate", checkpoint, conversations, "--output", tmp_path / "report", *split, *options)
    assert "| memory on |" in printed
    assert "common speaker stay together" in run(
        "data", "check", conversations, "--split-by", "speaker", "--test-share", "0.5", code=1
    )


def test_with_memory_and_without(conversations, checkpoint, tmp_path):
    options = ["--both", "--timeline", tmp_path / "talk.html", "--plotly", "directory"]
    analyze(conversations, "--model", checkpoint, *options)
    for name in ("talk_a.html", "talk_b.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "memory off" in page
        assert 'src="plotly.min.js"' in page
        assert len(page) < 100_000
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    for source, file in (("cdn", "talk.png"), ("disk", "talk.html")):
        options = ["--timeline", tmp_path / file, "--plotly", source]
        assert_fails(f"--plotly must be embedded, directory or cdn, .*got '{source}'", conversations, *options)


@pytest.mark.slow
def test_it_follows_a_stream(speech, checkpoint):
    """A process scores raw audio as it comes, and prints a turn before the stream has ended."""
    audio, starts = speech
    content = (audio * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "titans_mal.cli", "analyze", "--follow", "--model", checkpoint, "--speaker", "A"]
    process = subprocess.Popen(
        [*command, "--format", "jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    half = round((starts[1] + 0.1) * 32_000) // 2 * 2
    process.stdin.write(content[:half])
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    rest, errors = process.communicate(content[half:] + b"x", timeout=120)
    assert process.returncode == 0, errors
    turns = [first, *map(json.loads, rest.splitlines())]
    assert [turn["start"] for turn in turns] == pytest.approx(starts, abs=0.25)
    assert [turn["turn_index"] for turn in turns] == [0, 1, 2]
    assert {turn["speaker"] for turn in turns} == {"A"}


def test_incompatible_options(conversations, checkpoint, tmp_path):
    for arguments, message in (
        ([], "No input"),
        ([conversations, "--follow"], "--follow reads standard input"),
        (["--follow", "--format", "vtt"], "--follow reads standard input"),
        (["--follow", "--timeline", tmp_path / "a.png"], "--follow reads standard input"),
    ):
        result = CliRunner().invoke(app, ["analyze", "--model", checkpoint, *map(str, arguments)])
        assert result.exit_code == 1
        assert message in result.output


def test_unusable_turns_are_skipped(tmp_path, checkpoint):
    """A muted segment does not end the analysis; a short one is processed; long ones get one warning."""
    parts = [tone(1.0), np.zeros(16_000, np.float32), tone(4.0), tone(5.0)]
    (tmp_path / "call.wav").write_bytes(to_wav(np.concatenate(parts)))
    times = ((0, 0.06), (0, 1), (1, 2), (2, 6), (6, 11))
    lines = [f"{start},{end},A" for start, end in times]
    (tmp_path / "call.csv").write_text("\n".join(["start,end,speaker", *lines]))
    segments = ["--segments", tmp_path / "call.csv", "--model", checkpoint]
    printed = analyze(tmp_path / "call.wav", *segments, "--json", tmp_path / "turns.json", "--both")
    assert "1 of 5 turns are unusable and were skipped: Turn 2 " in printed
    assert "silent" in printed
    assert printed.count("2 turns are longer than the host's window") == 2  # with memory and without
    turns = json.loads((tmp_path / "turns.json").read_text())
    assert [turn["turn_index"] for turn in turns] == [0, 1, 3, 4]
    assert [turn["processed_seconds"] for turn in turns] == pytest.approx([0.06, 1.0, 3.0, 3.0], abs=1e-3)
    analyze(tmp_path / "call.wav", *segments, "--json", tmp_path / "turns.json", "--split-long")
    turns = json.loads((tmp_path / "turns.json").read_text())
    assert [turn["turn_index"] for turn in turns] == [0, 1, 3, 3, 4, 4]
    assert [turn["end"] for turn in turns][3:] == pytest.approx([6.0, turns[5]["start"], 11.0], abs=1e-3)
    (tmp_path / "silent.wav").write_bytes(to_wav(np.zeros(16_000, np.float32)))
    assert_fails("silent", tmp_path / "silent.wav", "--model", checkpoint)
