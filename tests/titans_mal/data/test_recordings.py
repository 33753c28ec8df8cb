"""One recording and its segments, in the formats of diarisation and transcription."""

import json
import warnings

import audio_files
import numpy as np
import pytest
from tiny_models import tone

from titans_mal import load_audio, load_recording
from titans_mal.data.recordings import Segment, read_segments
from titans_mal.data.synthetic.voices import to_wav


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
    [("a.rttm", RTTM, "A"), ("a.json", json.dumps(WHISPERX), None), ("a.csv", CSV, None)],
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


def test_turns_are_in_the_order_of_their_ends(recording):
    """As a server or a stream has them: the long turn of A is known when it ends, after B's two short ones."""
    segments = [Segment(0.0, 4.0, "A"), Segment(1.0, 1.5, "B"), Segment(2.0, 4.0, "B"), Segment(0.5, 0.9, "C")]
    table = load_recording(recording, segments)["test"]
    assert list(zip(table["speaker"][:], table["end"][:])) == [("C", 0.9), ("B", 1.5), ("A", 4.0), ("B", 4.0)]


def test_an_unnamed_speaker_is_none(recording, tmp_path):
    (tmp_path / "a.rttm").write_text(
        "".join(f"SPEAKER call 1 0 1 <NA> <NA> {name} <NA>\n" for name in ("<NA>", "unknown"))
    )
    assert load_recording(recording, tmp_path / "a.rttm")["test"]["speaker"][:] == [None, "unknown"]
    # As tables with blanks write names and channels.
    rows = ("nan,1.0,hi", "NaN,0,NaN", "<NA>,,", "Nan,NaN,None", "unknown,<NA>,Nan", "None,None,N/A", "null,NULL,null")
    (tmp_path / "a.csv").write_text("start,end,speaker,channel,text\n" + "".join(f"0,1,{row}\n" for row in rows))
    segments = read_segments(tmp_path / "a.csv")
    assert [segment.speaker for segment in segments] == ["", "", "", "Nan", "unknown", "", ""]
    assert [segment.channel for segment in segments] == [1, *[None] * 6]
    assert [segment.transcript for segment in segments] == ["hi", None, None, None, "Nan", None, None]


def test_numbers_are_speakers_too(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"start": 0, "end": 1, "speaker": 0}]))
    assert read_segments(tmp_path / "a.json")[0].speaker == "0"


def test_a_segment_that_is_given_twice_counts_once(recording):
    segments = [Segment(0.0, 1.0, "A"), Segment(0.0, 1.0, "A"), Segment(0.0, 1.0, "B"), Segment(0.0, 0.9, "A")]
    with pytest.warns(UserWarning, match="1 repeated"):
        tables = load_recording(recording, segments)
    rows = [(row["speaker"], row["end"]) for row in tables["test"]]
    assert rows == [("A", 0.9), ("A", 1.0), ("B", 1.0)]
    assert "0.000 to 1.000 s of A is given twice" in str(tables.problems[0])


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
        pytest.raises(ValueError, match="no segment is usable"),
    ):
        load_recording(recording, [Segment(7.0, 8.0)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"must be in a file of type \.rttm, \.json, \.csv, got 'a\.txt'"),
        ("a.rttm", "", "has no segments"),
        ("a.rttm", "SPEAKER call 1 0.5\n", "line 1: a SPEAKER line must have 8 to 10 fields .* got 4"),
        ("a.rttm", RTTM + "SPEAKER other 1 1 1 <NA> <NA> A <NA> <NA>", r"several recordings \['call', 'other'\]"),
        ("a.rttm", "SPEAKER my call 1 0.5 1.0 <NA> <NA> A <NA> <NA>", "8 to 10 fields without blanks, got 11"),
        ("a.rttm", "SPEAKER my call 1 0.5 1.0 <NA> <NA> A <NA>", "fields without blanks, got 10"),
        ("a.rttm", "SPEAKER call 1 x 1 <NA> <NA> A", "line 1: a time must be a number of seconds or h:mm:ss, got 'x'"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", '{"text": "hello"}', "has no list of segments"),
        ("a.json", '[{"start": 1.0}]', "segment 0: a time must be .* got None"),
        ("a.csv", "from,to\n1,2\n", r"lacks the columns \['start', 'end'\]; it has \['from', 'to'\]"),
        ("a.csv", "start,end\n1,nan\n", "line 2: a time must be"),
        ("a.csv", "start,end,transcript\n1,2,Well, hello\n", "line 2: there are more fields than columns"),
    ],
)
def test_unreadable_files_give_a_reason(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_segments(tmp_path / name)


def test_readable_lines_are_used_and_the_others_listed(recording, tmp_path):
    """Of each kind of file a line that cannot be read, between two that can."""
    contents = {
        "a.rttm": "".join(f"SPEAKER call 1 {start} 1 <NA> <NA> A\n" for start in ("0", "soon", "2")),
        "a.json": json.dumps([{"start": 0, "end": 1}, {"text": "no times"}, {"start": 2, "end": 3}]),
        "a.csv": "start,end,speaker\n0,1,A\n1,,A\n2,3,B\n,,\n",
    }
    for (name, content), place in zip(contents.items(), ("line 2", "segment 1", "line 3")):
        (tmp_path / name).write_text(content)
        with pytest.warns(
            UserWarning, match=rf"\(1 unreadable\); the first is unreadable: .*{name}: {place}: a time must be"
        ):
            conversations = load_recording(recording, tmp_path / name)
        assert conversations["test"]["start"][:] == [0.0, 2.0]
        assert [problem.kind for problem in conversations.problems] == ["unreadable"]
        with pytest.warns(UserWarning, match=place):
            assert len(read_segments(tmp_path / name)) == 2
        with pytest.raises(ValueError, match=place):
            load_recording(recording, tmp_path / name, strict=True)


@pytest.mark.parametrize(
    "line",
    [
        "call 1 1 0.5 3.0 <NA> <NA> A",  # a file's name of two words
        "call 1 1 0.5 3.0 <NA> <NA> A <NA>",
        "call 1 1 0.5 3.0 <NA> <NA>",
        "call 1 0.5 3.0 <NA> <NA> John Smith",
        "call 1 0.5 3.0 <NA> <NA> John Smith <NA>",
        "call 1 0.5 3.0 <NA> <NA> Speaker 1",
        "call 1 0.5 3.0 <NA> <NA> Speaker 1 <NA>",
    ],
)
def test_blanks_in_names_are_detected(tmp_path, line):
    (tmp_path / "a.rttm").write_text(f";; a comment\nSPEAKER {line}\n")
    with pytest.raises(ValueError, match=r"a\.rttm, line 2: a SPEAKER line must have 8 to 10 fields without blanks"):
        read_segments(tmp_path / "a.rttm")


@pytest.mark.parametrize("end", ["", " <NA>", " <NA> <NA>", " 0.95", " 0.95 <NA>", " 1.0 0.1"])
def test_all_forms_of_an_rttm_line(tmp_path, end):
    (tmp_path / "a.rttm").write_text(f"SPEAKER call 1 0.5 3.0 <NA> <NA> spk_1{end}\n")
    assert read_segments(tmp_path / "a.rttm") == [Segment(0.5, 3.5, "spk_1", channel=1)]


def test_the_lines_of_a_recording(recording, tmp_path):
    lines = [
        f"SPEAKER {name} 1 {start} 1 <NA> <NA> A" for name, start in (("call_1", 1), ("other", 2), ("Call_1.wav", 3))
    ]
    (tmp_path / "a.rttm").write_text("\n".join(lines))
    assert load_recording(recording, tmp_path / "a.rttm")["test"]["start"][:] == [1.0, 3.0]
    assert [segment.start for segment in read_segments(tmp_path / "a.rttm", tmp_path / "other.flac")] == [2.0]
    # The name of the conversation is known to the diarisation as well.
    assert load_recording(recording, tmp_path / "a.rttm", conversation_id="other")["test"].num_rows == 3
    (tmp_path / "b.rttm").write_text(lines[1])
    with pytest.raises(ValueError, match=r"has segments of \['other'\] but not of the recording 'call 1'"):
        load_recording(recording, tmp_path / "b.rttm")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_other_programs(recording, tmp_path, encoding, separator):
    header, line = ["Start", "END", "Speaker", "text"], ["0.5", "0:00:02", "J\u00fcrgen", "\u00a1Hola!"]
    if separator == ";":
        line[0] = "0,5"
    rows = [separator.join(fields) for fields in (header, line, [""] * 4)]
    (tmp_path / "a.csv").write_bytes("\r\n".join(rows).encode(encoding))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = load_recording(recording, tmp_path / "a.csv")["test"][0]
    assert (row["start"], row["end"], row["speaker"], row["transcript"]) == (0.5, 2.0, "J\u00fcrgen", "\u00a1Hola!")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=;\nstart;end\n0,5;2\n"),
        ("a.csv", "Start (s),End [sec],transcript_s\n0.5,2,x\n"),
        ("a.csv", "onset,offset\n0.5,2\n"),
        ("a.json", '[{"Start": 0.5, "END": 2, "begin": 7}]'),
    ],
)
def test_columns_of_other_programs(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    (segment,) = read_segments(tmp_path / name)
    assert (segment.start, segment.end) == (0.5, 2.0)


def test_a_start_just_before_the_recording_is_its_start(recording):
    conversations = load_recording(recording, [Segment(-0.1, 1.0, "A"), Segment(-0.05, 0.5)])
    assert conversations["test"]["start"][:] == [0.0, 0.0]
    assert [problem.kind for problem in conversations.problems] == ["early", "early"]
    with pytest.warns(UserWarning, match="1 outside"):
        load_recording(recording, [Segment(-0.11, 1.0, "A"), Segment(0.0, 1.0)])


@pytest.mark.parametrize("times", [["1 3000", "4 5000"], ["0 1000", "1000 2000", "3000 1000"]])
def test_invalid_times(recording, tmp_path, times):
    (tmp_path / "a.rttm").write_text("".join(f"SPEAKER call 1 {time} <NA> <NA> A\n" for time in times))
    with (
        pytest.warns(UserWarning, match=r"a\.rttm, line 1: .* are its times in seconds"),
        pytest.raises(ValueError, match=r"a\.rttm, line 1: .* are its times in seconds, and of this recording\?"),
    ):
        load_recording(recording, tmp_path / "a.rttm")


def test_a_few_segments_beyond_the_recording_are_left_out_and_most_are_an_error(recording):
    segments = [Segment(0.0, 1.0), Segment(1.0, 2.0), Segment(3.0, 9.0)]
    with pytest.warns(UserWarning, match=r"1 outside\); the first is outside: .*segment 2: 3.000 to 9.000 s"):
        assert load_recording(recording, segments)["test"].num_rows == 2
    with pytest.warns(match="2 outside"), pytest.raises(ValueError, match="2 of 3 segments are beyond the recording"):
        load_recording(recording, [segments[0], segments[2], Segment(4.0, 8.0)])


def test_a_git_lfs_pointer_instead_of_a_file(tmp_path):
    (tmp_path / "a.rttm").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="is a Git LFS pointer"):
        read_segments(tmp_path / "a.rttm")


@pytest.fixture
def stereo(tmp_path):
    """A speaker on each channel, and the two signals."""
    signals = tone(5.0, frequency=150), tone(5.0, frequency=230)
    (tmp_path / "call.wav").write_bytes(audio_files.to_wav(np.stack(signals)))
    return tmp_path / "call.wav", signals


def test_a_segment_uses_its_channel(stereo, tmp_path):
    file, signals = stereo
    (tmp_path / "a.rttm").write_text("".join(f"SPEAKER call {n} {n} 1 <NA> <NA> S{n} <NA> <NA>\n" for n in (1, 2)))
    (tmp_path / "a.csv").write_text("start,end,channel\n1,2,1\n2,3,2\n")
    (tmp_path / "a.json").write_text(json.dumps([{"start": n, "end": n + 1, "channel": n} for n in (1, 2)]))
    for name in ("a.rttm", "a.csv", "a.json"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = load_recording(file, tmp_path / name)["test"]
            for row, signal, first in zip(table, signals, (16_000, 32_000), strict=True):
                scored = load_audio(row["audio"])
                np.testing.assert_allclose(scored, signal[first : first + 16_000], atol=5e-5)
    assert table[1]["audio"]["path"].endswith("#t=2.000000,3.000000&channel=2")
    np.testing.assert_allclose(load_audio(f"{file}#t=0,1&channel=1"), signals[0][:16_000], atol=5e-5)
    with pytest.raises(ValueError, match="has no channel 3: its channels are 1 to 2"):
        load_audio(f"{file}#t=0,1&channel=3")


def test_missing_channels(stereo, recording):
    segments = [Segment(0, 1), Segment(1, 2, channel=3)]
    with pytest.warns(UserWarning, match="segment 1: channel 3, of a recording with 2"):
        load_recording(stereo[0], segments)
    with pytest.warns(UserWarning, match="channel 2, of a recording with 1"):
        load_recording(recording, [Segment(0, 1), Segment(1, 2, channel=2)])
    assert load_recording(recording, [Segment(0, 1, channel=1)])["test"][0]["audio"]["path"].endswith("1.000000")
    for channel in (0, -1, True, 1.0):
        with pytest.raises(ValueError, match="channel must be an integer from 1"):
            Segment(0, 1, channel=channel)


def test_channels_that_differ_are_mixed_with_one_warning(stereo, tmp_path):
    file, signals = stereo
    segments = [Segment(second, second + 1) for second in range(4)]
    with pytest.warns(UserWarning, match="two channels with different audio, which are mixed") as caught:
        table = load_recording(file, segments)["test"]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed = [load_audio(row["audio"]) for row in table]
    np.testing.assert_allclose(mixed[0], (signals[0] + signals[1])[:16_000] / 2, atol=5e-5)
    with pytest.warns(UserWarning, match="two channels") as caught:
        load_audio(file)
    assert len(caught) == 1
    (tmp_path / "alike.wav").write_bytes(audio_files.to_wav(np.stack([signals[0], 0.6 * signals[0]])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(tmp_path / "alike.wav")
        load_recording(tmp_path / "alike.wav", [Segment(0, 1)])


@pytest.mark.parametrize(
    ("channels", "speakers", "warns"),
    [((1, 1, 1), "ABA", True), ((2, 2, 2), "ABA", True), ((1, 2, 1), "ABA", False), ((1, 1, 1), "AAA", False)],
)
def test_several_speakers_on_one_of_two_different_channels(stereo, tmp_path, channels, speakers, warns):
    """Programs that mix the channels write channel 1 in every line."""
    lines = (f"SPEAKER call {c} {i} 1 <NA> <NA> {s} <NA> <NA>\n" for i, (c, s) in enumerate(zip(channels, speakers)))
    (tmp_path / "a.rttm").write_text("".join(lines))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = load_recording(stereo[0], tmp_path / "a.rttm")["test"]
    assert all(row["audio"]["path"].endswith(f"&channel={c}") for row, c in zip(table, channels))
    assert [str(w.message)[-30:] for w in caught] == ["channels, give them the channel 0."[-30:]] * warns
    (tmp_path / "alike.wav").write_bytes(audio_files.to_wav(np.stack([stereo[1][0]] * 2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_recording(tmp_path / "alike.wav", [Segment(0, 1, "A", channel=1), Segment(1, 2, "B", channel=1)])


@pytest.mark.parametrize("value", [None, "1.0", float("nan"), float("inf"), True])
def test_segments_have_numbers(value, recording):
    for times in ((value, 2.0), (0.0, value)):
        with pytest.raises(ValueError, match="of a segment must be a number of seconds"):
            Segment(*times)
    segment = Segment(np.float32(1), np.int64(2), "A", channel=np.int64(1))
    assert load_recording(recording, [segment])["test"]["end"][:] == [2.0]
    for other in ({"start": 0.0, "end": 1.0}, (0.0, 1.0)):
        with pytest.raises(ValueError, match=rf"list of `Segment`; got \['{type(other).__name__}'\]"):
            load_recording(recording, [segment, other])


def surround(signals, layout: str) -> bytes:
    return audio_files.encode(np.stack(signals), "flac", "flac", layout=layout)


@pytest.mark.parametrize(
    ("layout", "warned"),
    [("3.0", "three"), ("quad", "four"), ("5.0", "5"), ("5.1", None), ("7.1", None)],
)
def test_more_channels_that_differ(tmp_path, layout, warned):
    """A microphone for each speaker; the 5.1 and 7.1 of a film are meant to be mixed."""
    count = {"3.0": 3, "quad": 4, "5.0": 5, "5.1": 6, "7.1": 8}[layout]
    signals = [tone(1.0, frequency=150 + 40 * number, level=0.05) for number in range(count)]
    file = tmp_path / "meeting.flac"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file.write_bytes(surround([signals[0]] * count, layout))  # copies of one channel
        load_audio(file)
        load_recording(file, [Segment(0, 1)])
    file.write_bytes(surround(signals, layout))
    for load in (load_audio, lambda file: load_recording(file, [Segment(0, 1)])):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(file)
        found = [str(warning.message) for warning in caught]
        assert ["channels with different audio" in message for message in found] == [True] * bool(warned)
        assert warned is None or f"{warned} channels" in found[0]


def test_one_of_three_channels_that_differs(tmp_path):
    same = tone(1.0)
    (tmp_path / "a.wav").write_bytes(audio_files.to_wav(np.stack([same, same, tone(1.0, frequency=400)])))
    with pytest.warns(UserWarning, match="three channels with different audio.*--channels A,B,C"):
        load_audio(tmp_path / "a.wav")
    array = np.stack([same, same, tone(1.0, frequency=400)])
    with pytest.warns(UserWarning, match="The array has three channels with different audio"):
        load_audio((array, 16_000))


@pytest.mark.parametrize("field", [3, 8])
def test_errors_do_not_repeat_what_is_long(tmp_path, field):
    """Nor does a field of a megabyte keep a pattern busy."""
    fields = ["SPEAKER", "call", "1", "1", "2", "<NA>", "<NA>", "A", "<NA>", "<NA>"]
    fields[field] = "9" * 10**6 + "x"
    (tmp_path / "a.rttm").write_text(" ".join(fields))
    with pytest.raises(ValueError, match="line 1") as error:
        read_segments(tmp_path / "a.rttm")
    assert len(str(error.value)) < 1000
