"""What is checked, kept by the cache, and reported."""

import os
import time
from collections import Counter

import corpus_trees
import pytest
from tiny_models import tone

from titans_mal import load_conversations
from titans_mal.data import problems
from titans_mal.data.overview import depth_name, history_depths, list_problems, overview
from titans_mal.data.problems import Problem
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.data.table import Conversations


@pytest.fixture
def looked(monkeypatch):
    """How often each file was looked at."""
    counts = Counter()
    look_at = problems.look_at

    def counted(audio, **how):
        counts[os.path.basename(audio["path"])] += 1
        return look_at(audio, **how)

    monkeypatch.setattr(problems, "look_at", counted)
    return counts


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_files_are_inspected_once_until_one_changes(tmp_path, looked):
    corpus_trees.iemocap(tmp_path, sessions=[1])
    first = load_conversations("iemocap", data_dir=tmp_path, fold=1)["test"]
    assert len(looked) == first.num_rows == 10
    again = load_conversations("iemocap", data_dir=tmp_path, fold=1)["test"]
    assert set(looked.values()) == {1}
    # What is computed from the table is kept as well.
    doubled = [table.map(double, load_from_cache_file=True) for table in (first, again)]
    assert first._fingerprint == again._fingerprint
    assert doubled[0].cache_files == doubled[1].cache_files
    time.sleep(0.01)
    broken = tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    broken.write_bytes(to_wav(tone(1.0))[:-100])
    with pytest.warns(UserWarning, match="1 broken"):
        changed = load_conversations("iemocap", data_dir=tmp_path, fold=1)["test"]
    assert changed.num_rows == 9
    # Its place stays empty.
    assert changed["turn_index"][:4] == [1, 2, 3, 4]
    (tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt").write_text(
        "[1.0000 - 2.0000]\tSes01F_impro01_F001\thap\t[2.5, 2.5, 2.5]\n"
    )
    relabelled = load_conversations("iemocap", data_dir=tmp_path, fold=1)["test"]
    assert relabelled.num_rows == 6
    assert relabelled.features["emotion"].int2str(relabelled["emotion"][0]) == "happy"


def double(row):
    return {"twice": 2 * row["seconds"]}


def test_everything_left_out_is_an_error(tmp_path):
    corpus_trees.iemocap(tmp_path, sessions=[1])
    for path in tmp_path.rglob("*.wav"):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="10 broken"),
        pytest.raises(ValueError, match=r"no usable turn; the first problem is broken: .*the file is empty"),
    ):
        load_conversations("iemocap", data_dir=tmp_path)


def test_the_overview_counts(tmp_path):
    conversations = load_conversations("iemocap", data_dir=corpus_trees.iemocap(tmp_path), fold=5)
    counts = overview(conversations)["splits"]["test"]
    assert counts["turns"] == 10
    assert counts["scored"] == 6
    assert counts["conversations"] == 2
    assert counts["speakers"] == 2
    assert counts["hours"] == pytest.approx(2 * (1 + 1.5 + 0.75 + 0.75 + 0.5) / 3600)
    assert counts["labels"] == {"neutral": 2, "happy": 2, "sad": 0, "angry": 2}
    # The unscored turns are history: "angry" is the second turn of its speaker.
    assert counts["history"] == {"0": 2, "1": 4, "2": 0, "3-4": 0, "5-8": 0, "9-16": 0, "17+": 0}


def test_depths():
    assert history_depths("aaabb", "xyxxx") == [0, 0, 1, 0, 1]
    assert [depth_name(depth) for depth in (0, 2, 3, 4, 16, 17, 400)] == ["0", "2", "3-4", "3-4", "9-16", "17+", "17+"]


def test_problems_are_listed_by_kind():
    found = [Problem("broken", f"{i}.wav", "no audio") for i in range(3)] + [Problem("extra", "x.wav", "unknown")]
    lines = list_problems(found, most=2)
    assert lines[0].startswith("3 broken (dropped")
    assert lines[3] == "  ... and 1 more"
    assert lines[4].startswith("1 extra (ignored")
    with pytest.raises(ValueError, match="kind must be one of"):
        Problem("odd", "x.wav", "")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iemocap", {"data_dir": ".", "max_seconds": 0}, "max_seconds must be a number above 0"),
        ("iemocap", {"data_dir": ".", "label_set": []}, "label_set is empty"),
        ("iemocap", {"data_dir": ".", "columns": {"emotion": "label"}}, "columns does not apply to 'iemocap'"),
        ("synthetic-baseline", {"label_set": ["sad"]}, "label_set does not apply"),
        ("synthetic-baseline", {"fold": 1}, "fold does not apply"),
        ("synthetic-baseline", {"max_seconds": 0.1}, "max_seconds and split_longer_than do not apply"),
        ("synthetic-baseline", {"split_longer_than": 0.2}, "max_seconds and split_longer_than do not apply"),
        ("synthetic-baseline", {"split_by": "speaker", "test_share": 0.2}, "split_by is for data without splits"),
        ("org/name", {"split_longer_than": 10.0}, "split_longer_than is for audio in files, but 'org/name' is a Hub"),
    ],
)
def test_arguments_that_do_not_apply(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_conversations(name, **options)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that cannot be read is there on Linux alone")
def test_a_file_that_cannot_be_read_is_a_problem_like_others():
    found = problems.look_at({"bytes": None, "path": "/proc/self/mem"}, max_seconds=60.0, decode=False)
    assert (found["kind"], found["seconds"]) == ("broken", None)


def test_the_problems_of_a_split_are_those_without_a_split_too():
    found = [Problem("extra", f"{split}.wav", "", split=split) for split in ("train", "test", None)]
    conversations = Conversations({}, found)
    assert [problem.file for problem in conversations.problems_of("test")] == ["test.wav", "None.wav"]
