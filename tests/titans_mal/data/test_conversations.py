import cProfile
import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tone

from titans_mal import load_audio, load_conversations
from titans_mal.data.metadata_folder import REQUIRED_COLUMNS
from titans_mal.data.problems import quietly
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.data.table import COLUMNS


def turn(number=0, **fields):
    row = {
        "file_name": f"turn_{number}.wav",
        "conversation_id": "talk",
        "turn_index": number,
        "speaker": "AB"[number % 2],
        "emotion": ("neutral", "happy", "sad")[number % 3],
        "start": float(number),
        "end": number + 0.8,
    }
    return row | fields


def write(folder: Path, rows: list[dict], columns=None) -> Path:
    columns = columns or list(rows[0])
    for row in rows:
        if row.get("file_name", "").startswith("turn_"):
            (folder / row["file_name"]).write_bytes(to_wav(tone(0.8)))
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return folder


def test_reads_a_folder(tmp_path):
    turns = load_conversations(write(tmp_path, [turn(i) for i in range(4)]))
    assert list(turns) == ["test"]
    table = turns["test"]
    assert table.column_names == list(COLUMNS)
    assert table.features["emotion"].names == ["happy", "neutral", "sad"]
    assert [table.features["emotion"].int2str(e) for e in table["emotion"]] == ["neutral", "happy", "sad", "neutral"]
    row = table[1]
    assert (row["conversation_id"], row["turn_index"], row["speaker"]) == ("talk", 1, "B")
    assert (row["start"], row["end"]) == (1.0, 1.8)
    assert Path(row["audio"]["path"]).is_absolute()
    np.testing.assert_allclose(load_audio(row["audio"]), tone(0.8), atol=5e-5)


def test_labels_splits_transcripts_and_order(tmp_path):
    rows = [
        turn(2, conversation_id="b", split="train", transcript="late", emotion="bored"),
        turn(0, conversation_id="a", split="test", transcript="one", emotion=""),
        turn(1, conversation_id="a", split="test", transcript="two", emotion="sad"),
        turn(3, conversation_id="b", split="train", transcript="later", emotion="happy"),
    ]
    splits = load_conversations(write(tmp_path, rows), label_set=("sad", "happy"))
    assert set(splits) == {"train", "test"}
    assert splits["test"]["transcript"] == ["one", "two"] or list(splits["test"]["transcript"]) == ["one", "two"]
    assert list(splits["test"]["emotion"]) == [-1, 0]
    assert list(splits["train"]["emotion"]) == [-1, 1]
    assert splits["test"].features["emotion"].names == ["sad", "happy"]


def test_interleaved_conversations_are_separated(tmp_path):
    rows = [turn(i, conversation_id="xy"[i % 2], turn_index=i // 2, start=i, end=i + 0.5) for i in range(6)]
    table = load_conversations(write(tmp_path, rows))["test"]
    assert list(table["conversation_id"]) == list("xxxyyy")


def test_labels_and_times_may_be_missing(tmp_path):
    columns = [*REQUIRED_COLUMNS]
    table = load_conversations(write(tmp_path, [turn(i) for i in range(2)], columns))["test"]
    assert table["emotion"][:] == [-1, -1]
    assert table["start"][:] == table["end"][:] == [None, None]
    with (
        pytest.warns(match="unreadable"),
        pytest.raises(ValueError, match="line 2: only one of start and end is given"),
    ):
        load_conversations(write(tmp_path, [turn()], [*columns, "start"]))


@pytest.mark.parametrize("column", REQUIRED_COLUMNS)
def test_a_missing_column_is_named_with_the_present_ones(tmp_path, column):
    columns = [name for name in turn() if name != column]
    with pytest.raises(ValueError, match=rf"lacks the columns \['{column}'\]; it has \['{columns[0]}'"):
        load_conversations(write(tmp_path, [turn()], columns))


WRONG = [
    (turn(0, file_name="gone.wav"), r"no audio file 'gone\.wav'"),
    (turn(0, file_name=""), "file_name is empty"),
    (turn(0, conversation_id=""), "conversation_id is empty"),
    (turn(0, start="soon"), "start must be a number, got 'soon'"),
    (turn(0, end="nan"), "only one of start and end is given"),
    (turn(0, end="inf"), "end must be a number, got 'inf'"),
    (turn(0, conversation_id="NaN"), "conversation_id is empty"),
    (turn(0, start=2.0, end=1.0), r"a turn must start .* got 2\.0 to 1\.0"),
    (turn(0, start=-0.2), r"a turn must start at 0 s or later"),
    (turn(0, turn_index="first"), r"turn_index must be an integer from 0 and below 2\^63, got 'first'"),
    (turn(0, turn_index=10**20), r"turn_index must be an integer from 0 and below 2\^63, got '100000000000000000000'"),
    (turn(0, turn_index=0.5), r"turn_index must be an integer from 0 and below 2\^63, got '0\.5'"),
    (turn(0, turn_index=-1), "turn_index must be an integer"),
    (turn(0, turn_index=8), "conversation 'talk' already has turn 8"),
    (turn(0, split="train"), "conversation 'talk' is in the splits 'test' and 'train'"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_an_unusable_line_is_dropped_and_named(tmp_path, row, message):
    write(tmp_path, [turn(8, split="test"), {"split": "test"} | row, turn(9, split="test")])
    with pytest.warns(
        UserWarning, match=rf"turns that cannot be used \(1 \w+\); the first is .*metadata\.csv.*line 3: {message}"
    ):
        conversations = load_conversations(tmp_path)
    assert conversations["test"]["turn_index"][:] == [8, 9]
    assert [problem.kind for problem in conversations.problems if problem.kind != "early"] in (
        ["unreadable"],
        ["missing"],
    )
    with pytest.raises(ValueError, match=f"line 3: {message}"):
        load_conversations(tmp_path, strict=True)


def test_fields_that_are_not_given(tmp_path):
    """As pandas and others write them: "nan" is no label, and nobody's name."""
    for number, word in enumerate(("", "nan", "NaN", "<NA>", "None", "null", "N/A")):
        row = dict.fromkeys(("speaker", "emotion", "start", "end", "transcript", "valence"), word)
        folder = tmp_path / str(number)
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = load_conversations(write(folder, [turn(0) | row, turn(1, transcript="hi", valence=0.5)]))["test"]
        assert table.features["emotion"].names == ["happy"]
        assert table["emotion"][:] == [-1, 0]
        for name, given in {"speaker": "B", "start": 1.0, "transcript": "hi", "valence": 0.5}.items():
            assert table[name][:] == [None, given]


def share(times, seconds=10.0, **fields) -> list[dict]:
    """Rows with the same file, and these times in it."""
    spans = [{} if span is None else dict(zip(("start", "end"), span)) for span in times]
    return [turn(i, file_name="call.wav", start="", end="") | span | fields for i, span in enumerate(spans)]


@pytest.mark.parametrize(
    ("times", "seconds", "warns"),
    [
        ([(0, 2), (2.5, 4), (-0.05, 6.5)], [2.0, 1.5, 5.0], False),  # parts of a recording of 5 s
        ([(0, 5), (30, 35)], [5.0, 5.0], False),  # a clip that is used again
        ([(0, 2000), (2500, 4000)], [5.0, 5.0], True),  # milliseconds
        ([None, None], [5.0, 5.0], True),
        ([(0, 2), None], [5.0, 5.0], True),
    ],
)
def test_turns_with_the_same_file(tmp_path, times, seconds, warns):
    (tmp_path / "call.wav").write_bytes(to_wav(tone(5.0)))
    write(tmp_path, [turn(9, conversation_id="other"), *share(times)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tables = load_conversations(tmp_path)
    table = tables["test"].filter(lambda row: row["conversation_id"] == "talk")
    assert table["seconds"][:] == seconds
    assert [len(load_audio(row["audio"])) / 16_000 for row in table] == seconds
    assert ["turns have the same file 'call.wav' of 5.0 s" in str(warning.message) for warning in caught] == [
        True
    ] * warns


@pytest.mark.parametrize("apart", [True, False])
def test_parts_of_a_recording_with_a_wrong_time(tmp_path, apart):
    (tmp_path / "call.wav").write_bytes(to_wav(tone(6.0)))
    rows = share([(0, 1), (1.5, 3.5), (4, 50)])
    rows = [row | ({"conversation_id": f"talk {number}"} if apart else {}) for number, row in enumerate(rows)]
    with pytest.warns(UserWarning, match="1 unreadable"):
        tables = load_conversations(write(tmp_path, rows))
    assert tables["test"]["seconds"][:] == [1.0, 2.0]
    assert "line 4: 4 to 50 s is not within its file of 6.0 s" in str(tables.problems[0])


def test_a_single_turn_of_a_recording(tmp_path):
    spans = {"call1.wav": (0.5, 1.5), "call2.wav": (2, 3), "clip.wav": (40, 41), "padded.wav": (0.2, 1.2)}
    for name in spans:
        seconds = 6.0 if name.startswith("call") else 1.5
        (tmp_path / name).write_bytes(to_wav(tone(seconds)))
    rows = [turn(0, file_name=name, conversation_id=name, start=a, end=b) for name, (a, b) in spans.items()]
    table = load_conversations(write(tmp_path, rows))["test"]
    assert dict(zip(table["conversation_id"], table["seconds"])) == {
        "call1.wav": 1.0, "call2.wav": 1.0, "clip.wav": 1.5, "padded.wav": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize("span", [(6.5, 7.5), (50, 52)])
def test_a_single_turn_beyond_its_file_is_all_of_it_with_a_warning(tmp_path, span):
    (tmp_path / "call.wav").write_bytes(to_wav(tone(6.0)))
    with pytest.warns(UserWarning, match=r"a turn has the file 'call\.wav' of 6\.0 s, and each is all of it"):
        assert load_conversations(write(tmp_path, share([span])))["test"]["seconds"][:] == [6.0]


def test_padded_clips_with_the_times_of_their_conversation_are_whole(tmp_path):
    rows = [turn(i, file_name=f"{i}.wav", start=2.0 * i, end=2.0 * i + 1) for i in range(4)]
    for row in rows:
        (tmp_path / row["file_name"]).write_bytes(to_wav(tone(5.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_conversations(write(tmp_path, rows))["test"]["seconds"][:] == [5.0] * 4


def test_a_clip_that_several_conversations_use_is_whole(tmp_path):
    (tmp_path / "call.wav").write_bytes(to_wav(tone(5.0)))
    rows = share([(0.5, 2), (10, 11.5), (20, 21.5)])
    rows = [row | {"conversation_id": f"talk {number}"} for number, row in enumerate(rows)]
    with pytest.warns(UserWarning, match=r"3 turns have the same file 'call\.wav'"):
        assert load_conversations(write(tmp_path, rows))["test"]["seconds"][:] == [5.0] * 3


def test_a_table_in_place_of_its_folder(tmp_path):
    write(tmp_path, [turn(0)])
    with pytest.raises(FileNotFoundError, match=r"is a file: give the folder that contains metadata\.csv"):
        load_conversations(tmp_path / "metadata.csv")


@pytest.mark.parametrize(
    ("label_set", "message"),
    [
        ({"happy": None}, "must consist of text, got None: leave out words that are not scored"),
        (["happy", ""], "must consist of text, got ''"),
        ({"happy", "sad"}, "must be a list or a mapping, since labels have an order, got a set"),
        (["happy", "happy"], "must not repeat a label"),
    ],
)
def test_wrong_label_sets(tmp_path, label_set, message):
    with pytest.raises(ValueError, match=message):
        load_conversations(write(tmp_path, [turn(0)]), label_set=label_set)


@pytest.mark.parametrize("option", ["max_seconds", "split_longer_than"])
def test_lengths_are_numbers(tmp_path, option):
    with pytest.raises(ValueError, match=f"{option} must be a number above 0, got '60'"):
        load_conversations(write(tmp_path, [turn(0)]), **{option: "60"})


def test_a_file_in_several_conversations_is_whole(tmp_path):
    (tmp_path / "call.wav").write_bytes(to_wav(tone(1.0)))
    rows = [row | {"conversation_id": name} for row, name in zip(share([(40, 42), (10, 12)]), "ab")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_conversations(write(tmp_path, rows))["test"]["seconds"][:] == [1.0, 1.0]


def test_parts_of_a_changed_file_are_inspected_again(tmp_path):
    write(tmp_path, share([(0, 1), (1, 3)]))
    for seconds in (2.0, 3.0):
        (tmp_path / "call.wav").write_bytes(to_wav(tone(seconds)))
        assert load_conversations(tmp_path)["test"]["seconds"][:] == [1.0, seconds - 1]


def test_paths_of_windows(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(to_wav(tone(0.5)))
    (tmp_path / "clips" / "d.wav").write_bytes(to_wav(tone(0.7)))
    (tmp_path / "b\\c.wav").write_bytes(to_wav(tone(0.6)))
    rows = [turn(0, file_name="clips\\A.wav"), turn(1, file_name="b\\c.wav"), turn(2, file_name=".\\clips\\d.wav")]
    assert load_conversations(write(tmp_path, rows))["test"]["seconds"][:] == [0.5, 0.6, 0.7]


def test_labels_that_differ_only_in_capitals(tmp_path):
    write(tmp_path, [turn(0, emotion="Happy"), turn(1, emotion="happy"), turn(2, emotion="sad")])
    for label_set, labels in ((None, ["Happy", "happy", "sad"]), (["happy", "sad"], ["happy", "sad"])):
        with pytest.warns(UserWarning, match=r"labels \['Happy', 'happy'\] differ only in capitals"):
            table = load_conversations(tmp_path, label_set=label_set)["test"]
        assert table.features["emotion"].names == labels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_conversations(tmp_path, label_set={"Happy": "happy", "happy": "happy", "sad": "sad"})


def test_only_unusable_lines(tmp_path):
    with (
        pytest.warns(UserWarning, match="2 unreadable"),
        pytest.raises(
            ValueError,
            match=r"there is no usable turn; the first problem is unreadable: .*line 2: conversation_id is empty",
        ),
    ):
        load_conversations(write(tmp_path, [turn(0, conversation_id=""), turn(1, conversation_id="")]))


def test_unnamed_speakers_are_not_one_person(tmp_path):
    table = load_conversations(write(tmp_path, [turn(0, speaker=" "), turn(1, speaker="unknown")]))["test"]
    assert table["speaker"][:] == [None, "unknown"]


def test_turns_are_sorted_by_their_index(tmp_path):
    """Who talks long starts before and ends after what the other says meanwhile."""
    rows = [turn(1, start=0.0, end=9.0), turn(0, start=3.0, end=3.5)]
    table = load_conversations(write(tmp_path, rows))["test"]
    assert table["start"][:] == [3.0, 0.0]


def test_a_start_just_before_the_recording_is_its_start(tmp_path):
    conversations = load_conversations(write(tmp_path, [turn(0, start=-0.1), turn(1)]))
    assert conversations["test"]["start"][:] == [0.0, 1.0]
    assert [problem.kind for problem in conversations.problems] == ["early"]


def test_a_line_of_another_length_is_dropped(tmp_path):
    write(tmp_path, [turn(0)])
    with open(tmp_path / "metadata.csv", "a", encoding="utf-8") as file:
        file.write("turn_0.wav,talk,1\n,,,,,,\n")
    with pytest.warns(UserWarning, match=r"1 unreadable\); the first is .*line 3: the number of fields"):
        assert load_conversations(tmp_path)["test"].num_rows == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_other_programs(tmp_path, encoding, separator):
    (tmp_path / "A.WAV").write_bytes(to_wav(tone()))
    number = "0,5" if separator == ";" else "0.5"
    rows = [
        ["File_Name", "Conversation_ID", "Turn_Index", "Speaker", "Text", "Emotion", "Label", "Start", "End"],
        ["a.wav", "c", "0", "J\u00fcrgen", "\u00a1Hola!", "sad", "7", number, "0:00:01"],
        [""] * 9,
    ]
    (tmp_path / "metadata.csv").write_bytes("\r\n".join(map(separator.join, rows)).encode(encoding))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conversations = load_conversations(tmp_path)
    row = conversations["test"][0]
    assert (row["speaker"], row["transcript"], row["start"], row["end"]) == ("J\u00fcrgen", "\u00a1Hola!", 0.5, 1.0)
    assert conversations["test"].features["emotion"].names == ["sad"]
    assert row["audio"]["path"].endswith("A.WAV")
    assert [problem.kind for problem in conversations.problems] == ["renamed"]


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no metadata\.csv"):
        load_conversations(tmp_path)
    write(tmp_path, [turn()])
    (tmp_path / "metadata.csv").write_text(",".join(turn()) + "\n")
    with pytest.raises(ValueError, match="has no turns"):
        load_conversations(tmp_path)
    (tmp_path / "metadata.csv").write_text("")
    with pytest.raises(ValueError, match="lacks the columns"):
        load_conversations(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,conversation_id,turn_index,speaker,emotion,emotion\n")
    with pytest.raises(ValueError, match=r"has the columns \['emotion'\] more than once"):
        load_conversations(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "metadata.csv").rename(tmp_path / "below" / "metadata.csv")
    with pytest.raises(FileNotFoundError, match=r"has no metadata\.csv; .*below has one"):
        load_conversations(tmp_path)


def test_blanks_do_not_create_speakers(tmp_path):
    rows = [turn(0, speaker="A ", emotion=" sad", split="train "), turn(1, speaker=" A", emotion="sad", split="train")]
    table = load_conversations(write(tmp_path, rows))["train"]
    assert table["speaker"][:] == ["A", "A"]
    assert table.features["emotion"].names == ["sad"]


def test_possibly_misspelt_labels_are_reported(tmp_path):
    folder = write(tmp_path, [turn(i) for i in range(3)])
    with pytest.warns(
        UserWarning, match=r"No turn has the labels \['hapy'\], and turns with the labels \['happy', 'neutral'\]"
    ):
        load_conversations(folder, label_set=["hapy", "sad"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_conversations(folder, label_set=["sad"])
        load_conversations(folder, label_set=["neutral", "happy", "sad", "angry"])


@pytest.mark.parametrize("name", ["./none", "iemocapp", "no such folder", "a/b/c"])
def test_invalid_names_are_not_looked_up_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=r"is neither a folder, nor a Hub dataset .* nor one of \['iemocap'"):
        load_conversations(name)


def test_votes_of_raters(tmp_path):
    (tmp_path / "a.wav").write_bytes(to_wav(tone()))
    lines = ["file_name,conversation_id,turn_index,speaker,emotion,votes"]
    votes = ["happy;sad; happy", "", "bored", "sad"]
    lines += [f"a.wav,c,{i},A,{label},{given}" for i, (label, given) in enumerate(zip(["happy"] * 3 + ["odd"], votes))]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = load_conversations(tmp_path, label_set={"happy": "happy", "sad": "sad"})["test"]
    shares = table["emotion_probabilities"][:]
    assert shares[0] == pytest.approx([2 / 3, 1 / 3])
    assert shares[1:3] == [[1.0, 0.0], [1.0, 0.0]]
    assert shares[3] is None


def test_the_work_grows_with_the_turns_and_not_with_their_square(tmp_path):
    def calls(turns: int) -> int:
        folder = tmp_path / str(turns)
        folder.mkdir()
        write(folder, [turn(0)])
        write(folder, [turn(number, file_name="./turn_0.wav") for number in range(turns)])
        profile = cProfile.Profile()
        with quietly():
            profile.runcall(load_conversations, folder)
        return sum(entry.callcount for entry in profile.getstats())

    few, more, most = calls(100), calls(200), calls(400)
    assert most - more < 2.5 * (more - few)


def test_long_files_can_be_several_turns(tmp_path):
    long = np.concatenate([tone(2.5), np.zeros(1600, np.float32), tone(2.0)])
    for name, waveform in (("a", tone(0.5)), ("b", long), ("c", tone(0.5))):
        (tmp_path / f"{name}.wav").write_bytes(to_wav(waveform))
    rows = ["file_name,conversation_id,turn_index,speaker,emotion,start,end"]
    rows += ["a.wav,x,0,A,sad,0,0.5", "b.wav,x,1,B,happy,1,5.6", "c.wav,x,2,A,sad,6,6.5"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    whole = load_conversations(tmp_path)["test"]
    assert (whole["turn_index"][:], whole["seconds"][1]) == ([0, 1, 2], 4.6)
    conversations = load_conversations(tmp_path, split_longer_than=3.0)
    table = conversations["test"]
    assert table["turn_index"][:] == [0, 1, 2, 3]
    assert table["speaker"][:] == ["A", "B", "B", "A"]
    assert len(set(table["emotion"][1:3])) == 1
    assert table["start"][2] == table["end"][1] == pytest.approx(3.55, abs=0.06)
    assert table["end"][2] == pytest.approx(5.6)
    np.testing.assert_array_equal(
        np.concatenate([load_audio(audio) for audio in table["audio"][1:3]]), load_audio(to_wav(long))
    )
    (problem,) = conversations.problems
    assert (problem.kind, problem.detail, problem.turn_index) == ("split", "4.6 s, in 2 turns", 1)
    with pytest.raises(ValueError, match="split_longer_than must be a number above 0"):
        load_conversations(tmp_path, split_longer_than=0)
