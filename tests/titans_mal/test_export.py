"""Files that other tools open, read back by other readers."""

import csv
import io
import json

import pytest
import webvtt
from praatio import textgrid

from titans_mal.data.recordings import read_segments
from titans_mal.export import FORMATS, choose_label, export_turns


def turn(index, speaker, start, end, label="sad", **fields):
    scores = {"neutral": 0.25, "sad": 0.75}
    made = {"conversation_id": "call 1", "turn_index": index, "speaker": speaker, "start": start, "end": end}
    return {**made, "file": None, "label": label, "score": 0.75, "scores": scores, "surprise": 0.5, **fields}


TURNS = [turn(0, "Ann B", 0.5, 2.0), turn(1, None, 1.5, 3661.25, "not sure"), turn(2, "Ann B", 1.75, 4.0)]


def test_json_and_lines():
    assert json.loads(export_turns(TURNS, "json")) == TURNS
    assert [json.loads(line) for line in export_turns(TURNS, "jsonl").splitlines()] == TURNS


def test_csv():
    rows = list(csv.DictReader(io.StringIO(export_turns(TURNS, "csv"))))
    assert [row["label"] for row in rows] == ["sad", "not sure", "sad"]
    assert rows[0]["score_neutral"] == "0.25"
    assert rows[1]["speaker"] == ""
    (row,) = csv.DictReader(io.StringIO(export_turns([TURNS[0] | {"processed_seconds": 1.25}], "csv")))
    assert (rows[0]["processed_seconds"], row["processed_seconds"]) == ("", "1.25")


def test_rttm_is_read_back(tmp_path):
    text = export_turns(TURNS, "rttm")
    assert text.splitlines()[1] == "SPEAKER call_1 1 1.500 3659.750 <NA> not_sure unknown 0.750 <NA>"
    (tmp_path / "a.rttm").write_text(text)
    segments = read_segments(tmp_path / "a.rttm")
    assert [(s.start, s.speaker) for s in segments] == [(0.5, "Ann_B"), (1.5, "unknown"), (1.75, "Ann_B")]


def test_vtt_is_read_back():
    captions = webvtt.from_string(export_turns(TURNS, "vtt")).captions
    assert [caption.start for caption in captions] == ["00:00:00.500", "00:00:01.500", "00:00:01.750"]
    assert captions[1].end == "01:01:01.250"
    assert captions[0].text == "sad 75%"
    assert captions[0].voice == "Ann B"


def test_textgrid_is_read_back(tmp_path):
    path = tmp_path / "a.TextGrid"
    path.write_text(export_turns(TURNS, "textgrid"), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    assert grid.tierNames == ("Ann B", "unknown")
    # Intervals of a tier cannot overlap: the first ends as the third starts.
    assert [tuple(entry) for entry in grid.getTier("Ann B").entries] == [
        (0.5, 1.75, "sad 75%"),
        (1.75, 4.0, "sad 75%"),
    ]
    assert grid.maxTimestamp == 3661.25


@pytest.mark.parametrize("name", FORMATS)
def test_limits_of_formats(name):
    timeless = [turn(0, "A", None, None)]
    several = [turn(0, "A", 0, 1), turn(0, "A", 0, 1, conversation_id="other")]
    if name in ("rttm", "vtt", "textgrid"):
        with pytest.raises(ValueError, match=f"{name} needs at least one turn, and the start and end of every turn"):
            export_turns(timeless, name)
        for odd in ([], [turn(0, "A", float("nan"), 1.0)], [turn(0, "A", 1.0, 1.0)]):
            with pytest.raises(ValueError, match="needs at least one turn"):
                export_turns(odd, name)
        with pytest.raises(ValueError, match=rf"{name} needs turns of one conversation, got \['call 1', 'other'\]"):
            export_turns(several, name)
    else:
        assert export_turns(timeless, name)
        assert export_turns(several, name)
    with pytest.raises(ValueError, match=r"format must be one of \['json', .* got 'xml'"):
        export_turns(TURNS, "xml")


def test_odd_speakers_and_orders(tmp_path):
    turns = [turn(0, 0, 5.0, 6.0), turn(1, "A>-->\nB", 2.0, 3.0), turn(2, 0, 1.0, 5.5)]
    assert [line.split()[7] for line in export_turns(turns, "rttm").splitlines()] == ["0", "A_--_B", "0"]
    assert [caption.voice for caption in webvtt.from_string(export_turns(turns, "vtt")).captions] == [
        "0",
        "A -- B",
        "0",
    ]
    path = tmp_path / "a.TextGrid"
    path.write_text(export_turns(turns, "textgrid"), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    assert [entry.start for entry in grid.getTier("0").entries] == [1.0, 5.0]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_text_is_a_formula_to_a_spreadsheet(begin):
    text = f"{begin}HYPERLINK(1)"
    odd = turn(0, text, -0.0, 1.0, label=text, conversation_id=text, file=text)
    (row,) = csv.DictReader(io.StringIO(export_turns([odd], "csv"), newline=""))
    for name in ("speaker", "label", "conversation_id", "file"):
        assert row[name] == "'" + text.replace("\r", "\n")
    assert row["start"] == "-0.0"  # a number is one


def test_subtitles_hold_text_and_no_markup():
    text = export_turns([turn(0, "A & <b>", 0, 1, label="<i>sad & --> x")], "vtt")
    assert "<v A &amp; &lt;b>&lt;i&gt;sad &amp; --&gt; x 75%" in text


def test_labels_are_chosen_among_some():
    scores = {"a": 0.5, "b": 0.3, "c": 0.2}
    assert choose_label(scores) == ("a", 0.5, scores)
    label, score, chosen = choose_label(scores, labels=["c", "b"], unknown_below=0.7)
    assert (label, score) == ("unknown", pytest.approx(0.6))
    assert chosen == {"c": pytest.approx(0.4), "b": pytest.approx(0.6)}
    assert choose_label({"a": 1.0, "b": 0.0, "c": 0.0}, labels=["b", "c"])[2] == {"b": 0.5, "c": 0.5}
    with pytest.raises(ValueError, match="labels must be different labels out of"):
        choose_label(scores, labels=["d"])
