"""One recording and its segments, in the formats of diarisation and transcription."""

import json

import numpy as np
import pytest
from tiny_models import tone

from titans_mal import load_audio, load_recording
from titans_mal.data.recordings import Segment, read_segments
from titans_mal.data.voices import to_wav


@pytest.fixture
def recording(tmp_path):
    file = tmp_path / "call 1.wav"
    file.write_bytes(to_wav(tone(5.0)))
    return file


RTTM = """;; comment
SPKR-INFO call 1 <NA> <NA> <NA> unknown B <NA> <NA>
SPEAKER call 1 2.50 1.00 <NA> <NA> B <NA> <NA>
SPEAKER call 1 0.25 1.50 <NA> <NA> A <NA> <NA>
"""
WHISPERX = {"segments": [{"start": 2.5, "end": 3.5, "text": " Yes.", "speaker": "B"}, {"start": 0.25, "end": 1.75}]}
CSV = "speaker,start,end,transcript\nB,2.5,0:00:03.5,Yes.\n,0:00.25,1.75,\n"


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [("a.rttm", RTTM, "A"), ("a.json", json.dumps(WHISPERX), "unknown"), ("a.csv", CSV, "unknown")],
)
def test_turns_are_parts_of_the_recording(recording, tmp_path, name, content, first):
    segments = tmp_path / name
    segments.write_text(content)
    table = load_recording(recording, segments)["test"]
    assert table["conversation_id"][:] == ["call 1"] * 2
    assert table["speaker"][:] == [first, "B"]
    assert table["start"][:] == [0.25, 2.5]
    assert table["end"][:] == [1.75, 3.5]
    assert table["seconds"][:] == [1.5, 1.0]
    assert table["emotion"][:] == [-1, -1]
    whole = load_audio(recording)
    np.testing.assert_array_equal(load_audio(table[0]["audio"]), whole[4000:28000])
    if not name.endswith("rttm"):
        assert table["transcript"][:] == [None, "Yes."]


def test_numbers_are_speakers_too(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"start": 0, "end": 1, "speaker": 0}]))
    assert read_segments(tmp_path / "a.json")[0].speaker == "0"


def test_segments_that_do_not_fit(recording):
    segments = [
        Segment(4.5, 6.0, "A"),  # ends after the recording
        Segment(0.5, 0.5000001, "A"),  # no length
        Segment(7.0, 8.0, "B"),  # after the recording
        Segment(1.0, 1.05, "B"),  # short
        Segment(1.0, 2.0, "A"),  # at the same time as the one before
        Segment(-1.0, 0.2, "A"),
    ]
    with pytest.warns(UserWarning, match=r"turns that cannot be used \(3 outside\)"):
        conversations = load_recording(recording, segments, conversation_id="c")
    table = conversations["test"]
    assert table["start"][:] == [1.0, 1.0, 4.5]
    assert table["turn_index"][:] == [2, 3, 4]
    assert table["end"][2] == 5.0
    kinds = [problem.kind for problem in conversations.problems]
    assert sorted(kinds) == ["long", "outside", "outside", "outside", "short"]
    with pytest.raises(ValueError, match="turns cannot be used"):
        load_recording(recording, segments, strict=True)
    with pytest.raises(ValueError, match="No segments were given"):
        load_recording(recording, [])
    with (
        pytest.warns(UserWarning, match="1 outside"),
        pytest.raises(ValueError, match="no segment can be used"),
    ):
        load_recording(recording, [Segment(7.0, 8.0)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"come from \.rttm, \.json, \.csv, got 'a\.txt'"),
        ("a.rttm", "", "holds no segments"),
        ("a.rttm", "SPEAKER call 1 0.5\n", "line 1: a SPEAKER line has 8 to 10 fields, .* got 4"),
        ("a.rttm", RTTM + "SPEAKER other 1 1 1 <NA> <NA> A <NA> <NA>", r"several recordings \['call', 'other'\]"),
        ("a.rttm", "SPEAKER my call 1 0.5 1.0 <NA> <NA> A <NA> <NA>", "8 to 10 fields, and no blanks in them, got 11"),
        ("a.rttm", "SPEAKER my call 1 0.5 1.0 <NA> <NA> A <NA>", "and no blanks in them, got 10"),
        ("a.rttm", "SPEAKER call 1 x 1 <NA> <NA> A", "line 1: a time is a number of seconds or h:mm:ss, got 'x'"),
        ("a.json", "{", "is no JSON"),
        ("a.json", '{"text": "hello"}', "has no list of segments"),
        ("a.json", '[{"start": 1.0}]', "segment 0: a time is .* got None"),
        ("a.csv", "from,to\n1,2\n", r"lacks the columns \['start', 'end'\]; it has \['from', 'to'\]"),
        ("a.csv", "start,end\n1,nan\n", "line 2: a time is"),
        ("a.csv", "start,end,transcript\n1,2,Well, hello\n", "line 2: there are more fields than columns"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_segments(tmp_path / name)
