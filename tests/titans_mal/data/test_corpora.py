"""Every corpus on a tree that looks like it, with its traps inside."""

import json
import re
import shutil
import warnings
from pathlib import Path

import corpus_trees
import numpy as np
import pytest

from titans_mal import load_audio, load_conversations
from titans_mal.data.corpora import CORPORA
from titans_mal.data.table import COLUMNS, DIMENSIONS, SOFT_LABELS, on_scale


MAKERS = {name: getattr(corpus_trees, name.replace("-", "_")) for name in CORPORA}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


def load(trees, name, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cannot be used.*", UserWarning)
        return load_conversations(name, data_dir=trees[name], **options)


def labels_of(table) -> list:
    names = table.features["emotion"].names
    return [names[emotion] if emotion >= 0 else None for emotion in table["emotion"]]


@pytest.mark.parametrize("name", CORPORA)
def test_properties_of_every_corpus(trees, name):
    corpus = CORPORA[name]
    conversations = load(trees, name, num_proc=2)
    seen = set()
    for split, table in conversations.items():
        votes = [SOFT_LABELS] if name == "iemocap" else []
        rated = {"iemocap": DIMENSIONS, "msp-improv": ["arousal", "dominance"], "msp-podcast": ["arousal"]}
        gender = [] if name in ("meld", "emorynlp", "dailytalk") else ["gender"]
        assert table.column_names == [*COLUMNS, *votes, *rated.get(name, []), *gender]
        assert set(table["split"]) == {split}
        assert table.info.dataset_name == name
        places = list(zip(table["conversation_id"], table["turn_index"]))
        assert places == sorted(set(places))
        assert not seen & set(table["conversation_id"])
        seen |= set(table["conversation_id"])
        for row in table:
            assert row["seconds"] > 0
            assert len(load_audio(row["audio"])) == pytest.approx(16_000 * row["seconds"], abs=4000)
    for label_set in corpus.label_sets:
        tables = load(trees, name, label_set=label_set)
        assert all(table.num_rows == conversations[split].num_rows for split, table in tables.items())


@pytest.mark.parametrize("name", [name for name, corpus in CORPORA.items() if corpus.fold_groups])
def test_folds_separate_conversations_and_groups(trees, name):
    groups = load(trees, name)
    total = sum(table.num_rows for table in groups.values())
    tested = []
    for fold, group in enumerate(CORPORA[name].fold_groups, start=1):
        if group not in groups:
            with pytest.raises(ValueError, match=f"no turn of {group}, the test data of fold {fold}"):
                load(trees, name, fold=fold)
            continue
        splits = load(trees, name, fold=fold)
        assert set(splits) == {"train", "test"}
        assert splits["test"]["conversation_id"][:] == groups[group]["conversation_id"][:]
        assert not set(splits["test"]["conversation_id"]) & set(splits["train"]["conversation_id"])
        assert splits["test"].num_rows + splits["train"].num_rows == total
        assert f"fold {fold}" in splits["test"].info.config_name
        tested += splits["test"]["conversation_id"][:]
    assert len(tested) == total
    for fold in (0, len(CORPORA[name].fold_groups) + 1, True, "1"):
        with pytest.raises(ValueError, match=r"must be in 1\.\."):
            load(trees, name, fold=fold)


def test_iemocap(trees):
    table = load(trees, "iemocap", fold=3)["test"]
    assert sorted(set(table["conversation_id"])) == ["Ses03F_impro01", "Ses03M_script01_1b"]
    first = table.select(range(5))
    assert first["start"][:] == [0.5, 2.0, 4.25, 5.5, 7.0]
    assert first["turn_index"][:] == [0, 1, 2, 3, 4]
    # Who talks, whatever letter the recording has.
    assert table["speaker"][:] == ["Ses03_F", "Ses03_M", "Ses03_F", "Ses03_M", "Ses03_F"] * 2
    assert labels_of(first) == ["neutral", None, "happy", "angry", None]
    assert first["transcript"][:] == ["Hello.", "No.", "What!", "Never: [LAUGHTER]", "Well."]
    six = load(trees, "iemocap", label_set="6-class", fold=3)["test"]
    assert labels_of(six)[:5] == ["neutral", "frustrated", "excited", "angry", None]
    assert labels_of(load(trees, "iemocap", label_set="raw", fold=3)["test"])[4] == "undecided"
    own = load(trees, "iemocap", label_set={"angry": "bad", "frustrated": "bad", "excited": "good"}, fold=3)["test"]
    assert own.features["emotion"].names == ["bad", "good"]
    assert labels_of(own)[:5] == [None, "bad", "good", "bad", None]


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_iemocap_one_folder_up_and_in_part(tmp_path):
    corpus_trees.iemocap(tmp_path / "IEMOCAP_full_release", sessions=[2])
    assert list(load_conversations("IEMOCAP", data_dir=tmp_path)) == ["session2"]
    with pytest.raises(ValueError, match="no turn of session1, the test data of fold 1"):
        load_conversations("iemocap", data_dir=tmp_path, fold=1)


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_iemocap_with_copies_holes_and_a_table_twice(tmp_path):
    corpus_trees.iemocap(tmp_path)
    (tmp_path / "backup" / "Session1").mkdir(parents=True)
    evaluations = tmp_path / "Session2" / "dialog" / "EmoEvaluation"
    twice = evaluations / "Ses02F_impro01.txt"
    twice.write_text(2 * twice.read_text() + "\n[9.0000 - 9.5000]\tSes02F_impro01_F000\tNEU\t[2.5, 2.5, 2.5]")
    blanks = evaluations / "Ses02M_script01_1b.txt"
    blanks.write_text(blanks.read_text().replace("\t", " "))
    with pytest.warns(UserWarning, match=r"iemocap: turns that cannot be used \(6 repeated, 1 absent\)|1 absent"):
        conversations = load_conversations("iemocap", data_dir=tmp_path)
    assert [table.num_rows for table in conversations.values()] == [10, 5, 10, 10, 10]
    assert {problem.kind for problem in conversations.problems} == {"extra", "repeated", "absent"}
    twice.write_text(twice.read_text().replace("\tneu\t", "\tNEU\t"))
    with pytest.warns(UserWarning, match="unknown labels are not scored: 'NEU' of 1 turns"):
        load_conversations("iemocap", data_dir=tmp_path)


def test_a_split_without_usable_audio_is_an_error(tmp_path):
    corpus_trees.iemocap(tmp_path)
    for path in (tmp_path / "Session1" / "sentences").rglob("*.wav"):
        path.unlink()
    with (
        pytest.warns(UserWarning, match="10 missing"),
        pytest.raises(ValueError, match="the split 'test' has no usable turn; the first problem is missing: "),
    ):
        load_conversations("iemocap", data_dir=tmp_path, fold=1)


def test_unreadable_rows_are_dropped_and_named(tmp_path):
    corpus_trees.meld(tmp_path)
    table = tmp_path / "dev_sent_emo.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("00:16:15,000", "soon"), encoding="utf-8")
    message = r"dev_sent_emo\.csv: row 3: a time must have the form h:mm:ss, got 'soon'"
    with pytest.warns(UserWarning, match=message):
        conversations = load_conversations("meld", data_dir=tmp_path)
    assert conversations["dev"].num_rows == 2
    with pytest.raises(ValueError, match=message):
        load_conversations("meld", data_dir=tmp_path, strict=True)


@pytest.mark.filterwarnings("ignore:.*cannot be used")
@pytest.mark.parametrize(
    ("name", "file", "broken"),
    [
        ("dailytalk", "metadata.json", {"0": {"0": {}, "1": [], "2": 1}, "1": None}),
        ("m3ed", "annotation.json", {"anjia": {"anjia_1": {"Dialog": {"a_1": {}, "a_2": {"Speaker": 1}}}, "c": []}}),
    ],
)
def test_annotations_that_lack_what_they_should_have(name, file, broken, tmp_path):
    root = MAKERS[name](tmp_path)
    whole = json.loads((root / file).read_text(encoding="utf-8"))
    (root / file).write_text(json.dumps(whole | broken), encoding="utf-8")
    with pytest.warns(UserWarning, match="cannot be used"):
        conversations = load_conversations(name, data_dir=root)
    left_out = [problem for problem in conversations.problems if problem.kind == "unreadable"]
    assert len(left_out) == {"dailytalk": 4, "m3ed": 3}[name]
    assert all(problem.file == str(root / file) for problem in left_out)
    assert left_out[0].detail.endswith("' is missing")


@pytest.mark.filterwarnings("ignore:.*cannot be used")
@pytest.mark.parametrize("name", CORPORA)
def test_a_level_of_folders_more(trees, name, tmp_path):
    shutil.copytree(trees[name], tmp_path / "download" / "release")
    expected = {split: table.num_rows for split, table in load(trees, name).items()}
    found = load_conversations(name, data_dir=tmp_path)
    assert {split: table.num_rows for split, table in found.items()} == expected


def test_meld_in_wav_and_without_the_folders_of_its_splits(tmp_path):
    """As copies have it: clips turned into WAV, folders named by the split, tables and folders side by side."""
    corpus_trees.meld(tmp_path / "release")
    with pytest.warns(UserWarning, match="cannot be used"):
        expected = load_conversations("meld", data_dir=tmp_path / "release")
    copy = tmp_path / "copy"
    for split, (clips, table) in {
        "train": ("train/train_splits", "train_sent_emo.csv"),
        "dev": ("dev_splits_complete", "dev_sent_emo.csv"),
        "test": ("output_repeated_splits_test", "test_sent_emo.csv"),
    }.items():
        (copy / split).mkdir(parents=True)
        shutil.copy(tmp_path / "release" / table, copy)
        for clip in (tmp_path / "release" / clips).glob("*.mp4"):
            shutil.copy(clip, copy / split / f"{clip.stem}.wav")
    with pytest.warns(UserWarning, match="cannot be used"):
        found = load_conversations("meld", data_dir=copy)
    for split, table in expected.items():
        for column in ("conversation_id", "turn_index", "seconds"):
            assert found[split][column][:] == table[column][:]
    assert {problem.kind for problem in found.problems} >= {"renamed"}


def test_duplicated_folders_of_an_archive(tmp_path):
    corpus_trees.meld(tmp_path)
    (tmp_path / "train" / "train_splits").rename(tmp_path / "clips")
    (tmp_path / "train" / "train_splits").mkdir()
    (tmp_path / "clips").rename(tmp_path / "train" / "train_splits" / "train_splits")
    (tmp_path / "_raw" / "dev_splits_complete").mkdir(parents=True)
    assert load_conversations("meld", data_dir=tmp_path)["train"].num_rows == 3


def test_msp_improv_beside_its_transcriptions(tmp_path):
    corpus_trees.msp_improv(tmp_path)
    transcript = tmp_path / "All_human_transcriptions" / "session1" / "MSP-IMPROV-S01A-F01-P-FM01.txt"
    transcript.parent.mkdir(parents=True)
    transcript.write_text("Hello.\n")
    conversations = load_conversations("msp-improv", data_dir=tmp_path)
    assert conversations["session1"]["transcript"][0] == "Hello."
    assert not conversations.problems


def test_m3ed_without_names(tmp_path):
    corpus_trees.m3ed(tmp_path)
    path = tmp_path / "annotation.json"
    path.write_text(re.sub(r'"Name": "[^"]+"', '"Name": " "', path.read_text(encoding="utf-8")), encoding="utf-8")
    (tmp_path / "splitInfo" / "movie_list_test.txt").write_text("xiaohuanxi\nanjia")
    with pytest.warns(UserWarning, match="11 repeated"):
        conversations = load_conversations("m3ed", data_dir=tmp_path)
    assert set(conversations["train"]["speaker"]) == {"anjia_1_A", "anjia_1_B", "anjia_2_A"}
    assert set(conversations["test"]["conversation_id"]) == {"xiaohuanxi_1", "xiaohuanxi_2"}


def test_meld(trees):
    with pytest.warns(
        UserWarning, match=r"meld: turns that cannot be used \(1 missing, 1 broken\)|1 broken, 1 missing"
    ):
        conversations = load_conversations("meld", data_dir=trees["meld"])
    assert {split: table.num_rows for split, table in conversations.items()} == {"train": 3, "dev": 3, "test": 5}
    for split, table in conversations.items():
        talk = table.filter(lambda row, split=split: row["conversation_id"] == f"{split}_dia0")
        # By their ids: start times go back.
        assert talk["start"][:] == [976.059, 975.0, 980.059]
        assert talk["end"][2] == 981.1
        assert talk["speaker"][:] == ["Chandler", "Joey", "Joey"]
        assert labels_of(talk) == ["surprise", "neutral", "joy"]
        assert talk["transcript"][2] == "That\u2019s \u201cit\u201d"
    kinds = sorted((problem.kind, problem.split, problem.file.rsplit("/")[-1]) for problem in conversations.problems)
    assert kinds == [
        ("broken", "train", "dia125_utt3.mp4"),
        ("extra", "dev", "dia49_utt4.mp4"),
        ("extra", "test", "final_videos_testdia101_utt0.mp4"),
        ("long", "test", "dia38_utt4.mp4"),
        ("missing", "dev", "dia110_utt7.mp4"),
        ("short", "test", "dia93_utt5.mp4"),
    ]
    by_name = {row["conversation_id"]: row for row in conversations["test"]}
    assert by_name["test_dia38"]["audio"]["path"].endswith("dia38_utt4.mp4#t=0.000000,60.000000")
    assert len(load_audio(by_name["test_dia38"]["audio"])) == 60 * 16_000
    # The low-frequency channel alone held audio: a down-mix leaves it out, and does not append channels.
    waveform = load_audio(conversations["test"][0]["audio"])
    assert len(waveform) == pytest.approx(0.6 * 16_000, abs=1000)
    assert np.abs(waveform).max() < 0.01
    with pytest.raises(ValueError, match=r"meld: turns cannot be used \(.*broken: .*dia125_utt3\.mp4"):
        load_conversations("meld", data_dir=trees["meld"], strict=True)
    with pytest.raises(ValueError, match="MELD has its own splits and no folds, got fold=1"):
        load_conversations("meld", data_dir=trees["meld"], fold=1)


def test_meld_sentiment(trees):
    table = load(trees, "meld", label_set="3-class")["train"]
    assert table.features["emotion"].names == ["neutral", "positive", "negative"]
    assert labels_of(table) == ["negative", "neutral", "positive"]


def test_m3ed(trees):
    conversations = load(trees, "m3ed")
    assert set(conversations) == {"train", "val", "test"}
    table = conversations["train"]
    assert table["conversation_id"][:] == ["anjia_1"] * 10 + ["anjia_2"]
    assert table["start"][:10] == [number + 0.2 for number in range(1, 11)]
    # Letters belong to a clip, names to a movie.
    assert table["speaker"][:] == ["anjia_王", "anjia_李"] * 5 + ["anjia_王"]
    assert set(labels_of(table)) == {"Anger"}


def test_dailytalk(trees):
    table = load(trees, "dailytalk", fold=1)["test"]
    assert list(dict.fromkeys(table["conversation_id"])) == ["d0", "d5"]
    assert table["speaker"][:] == ["0", "1"] * 5 + ["0"] + ["1", "0"] * 5 + ["1"]
    assert labels_of(table)[:3] == ["neutral", "happiness", "neutral"]


def test_emorynlp(trees):
    table = load(trees, "emorynlp")["dev"]
    assert table["conversation_id"][:] == ["sea1_ep11_sc1"] * 2
    assert table["speaker"][:] == ["Rachel Green", "Phoebe's Assistant and #ALL#"]
    assert labels_of(table) == ["Neutral", "Mad"]
    assert table["start"][0] == 3.795


def test_msp_podcast(trees):
    conversations = load(trees, "msp-podcast")
    train = conversations["train"]
    assert train["conversation_id"][:] == ["train_MSP-PODCAST_0001"] * 3
    assert train["start"][:] == [80.0, 90.0, 100.0]
    # "Unknown" is many people.
    assert len(set(train["speaker"])) == 3
    assert train["speaker"][2] == "12"
    assert labels_of(train) == ["neutral", None, "happy"]
    assert conversations["test1"]["conversation_id"][:] == ["test1_MSP-PODCAST_0001"]
    assert labels_of(conversations["dev"]) == ["contemptuous"]


def test_msp_improv(trees):
    table = load(trees, "msp-improv", fold=2)["test"]
    rows = [(row["conversation_id"], row["speaker"]) for row in table]
    assert rows == [
        ("S01A-F02-P", "F02"),
        ("S01A-F02-R", "F02"),
        ("S01A-F02-ST", "F02"),
        ("S01A-F02-ST", "M02"),
        # The target sentence, by the actor who is to say it.
        ("S01A-F02-ST", "F02"),
    ]
    assert labels_of(table) == ["sad", None, "neutral", "angry", "happy"]


def test_crema_d(trees):
    conversations = load(trees, "crema-d")
    assert sum(table.num_rows for table in conversations.values()) == 7 * 2 + 1
    kinds = sorted((problem.kind, problem.file.rsplit("/")[-1]) for problem in conversations.problems)
    assert kinds == [("broken", "1002_ITH_SAD_X.wav"), ("extra", "notes.wav")]
    decoded = load(trees, "crema-d", decode=True)
    assert ("silent", "1076_MTI_SAD_XX.wav") in {(p.kind, p.file.rsplit("/")[-1]) for p in decoded.problems}
    assert sum(table.num_rows for table in decoded.values()) == 7 * 2
    assert all(table["turn_index"][:] == [0] * table.num_rows for table in conversations.values())


def test_ravdess(trees):
    conversations = load(trees, "ravdess")
    assert {name: table.num_rows for name, table in conversations.items()} == {"fold1": 2, "fold2": 1, "fold6": 1}
    assert labels_of(conversations["fold1"]) == ["angry", "angry"]
    details = [problem.detail.split()[0] for problem in conversations.problems if problem.kind == "extra"]
    assert sorted(details) == ["a"] * 4 + ["song,"] * 4
    absent = [problem.detail[-5:] for problem in conversations.problems if problem.kind == "absent"]
    assert absent == ["fold3", "fold4", "fold5"]


def test_emodb(trees):
    conversations = load(trees, "emodb")
    speakers = [sorted(set(table["speaker"])) for table in conversations.values()]
    assert speakers == [["03", "08"], ["09", "10"], ["11", "13"], ["12", "14"], ["15", "16"]]
    first = conversations["fold1"]
    assert first["conversation_id"][:] == ["03a01Wa", "03a05Lc", "03b10Nb", "08a01Wa", "08b10Nb"]
    assert labels_of(first) == ["angry", "bored", "neutral", "angry", "neutral"]
    assert labels_of(load(trees, "emodb", label_set="4-class")["fold1"])[1] is None
    assert [problem.file.rsplit("/")[-1] for problem in conversations.problems] == [
        "07a01Wa.wav",
        "07b10Nb.wav",
        "notes.wav",
    ]


def _emobox(root: Path, name: str, fold: int, **splits: list[str]) -> Path:
    """A clone of EmoBox with the lists of one fold."""
    folder = root / "data" / name / f"fold_{fold}"
    folder.mkdir(parents=True)
    for split, stems in splits.items():
        lines = [json.dumps({"key": f"{name}-{stem}", "wav": f"downloads/{name}/x/{stem}.wav"}) for stem in stems]
        (folder / f"{name}_{split}_fold_{fold}.jsonl").write_text("\n".join(lines))
    return root


def test_the_splits_of_emobox(trees, tmp_path):
    stems = [f"03-01-05-01-02-01-{actor:02d}" for actor in (1, 2, 5, 24)]
    clone = _emobox(tmp_path, "ravdess", 2, train=stems[:2], test=stems[2:3])
    splits = load(trees, "ravdess", fold=2, emobox=clone)
    named = {split: table["conversation_id"][:] for split, table in splits.items()}
    assert named == {"train": stems[:2], "test": stems[2:3]}
    assert splits["test"].info.config_name == "8-class (EmoBox), fold 2"
    assert any("1 turns, of conversations that EmoBox's fold 2 does not list" in str(p) for p in splits.problems)
    # Of a dialogue some turns are listed; the others are history.
    clone = _emobox(
        tmp_path,
        "iemocap",
        1,
        train=["Ses01F_impro01_F000"],
        valid=["Ses02F_impro01_F000"],
        test=["Ses03F_impro01_M001"],
    )
    splits = load(trees, "iemocap", fold=1, emobox=clone / "data")
    assert [labels_of(splits[split]) for split in ("train", "dev", "test")] == [
        ["neutral", None, None, None, None],
        ["neutral", None, None, None, None],
        [None, None, None, "angry", None],
    ]
    assert [value is None for value in splits["train"]["valence"]] == [False, True, True, True, True]
    with pytest.raises(FileNotFoundError, match=r"no fold_3 of iemocap; its folds are \['fold_1'\]"):
        load(trees, "iemocap", fold=3, emobox=clone)
    with pytest.raises(ValueError, match="emobox needs fold"):
        load(trees, "iemocap", emobox=clone)
    with pytest.raises(ValueError, match="has official splits, which EmoBox uses too"):
        load(trees, "meld", emobox=clone, fold=1)
    with pytest.raises(ValueError, match="emobox does not apply to 'synthetic-baseline'"):
        load_conversations("synthetic-baseline", emobox=clone)
    _emobox(tmp_path, "iemocap", 2, train=["Ses01F_impro01_F000"], test=["Ses01F_impro01_F001"])
    with pytest.raises(ValueError, match="has turns of 'Ses01F_impro01' in 'test' and in 'train'"):
        load(trees, "iemocap", fold=2, emobox=clone)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ravdess", {"Actor_01": "male", "Actor_02": "female", "Actor_05": "male", "Actor_24": "female"}),
        ("emodb", {"03": "male", "08": "female", "15": "male", "16": "female"}),
        ("iemocap", {"Ses01_F": "female", "Ses01_M": "male"}),
        ("msp-improv", {"F01": "female", "M02": "male"}),
        ("msp-podcast", {"12": "male", "7": None}),
        ("crema-d", {"1001": "male", "1002": "female", "1003": None}),
        ("m3ed", {"anjia_李": "female", "anjia_王": "male"}),
    ],
)
def test_the_gender_of_a_speaker(trees, name, expected):
    found = {
        row["speaker"]: row["gender"] for table in load(trees, name).values() for row in table.remove_columns("audio")
    }
    assert {speaker: found[speaker] for speaker in expected} == expected


@pytest.mark.parametrize("name", CORPORA)
def test_missing_parts_are_reported(name, tmp_path):
    with pytest.raises(ValueError, match="needs data_dir"):
        load_conversations(name)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_conversations(name, data_dir=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"^No .* was found in"):
        load_conversations(name, data_dir=tmp_path)
    with pytest.raises(ValueError, match="must be one of"):
        load_conversations(name, data_dir=tmp_path, label_set="5-class")
    with pytest.raises(ValueError, match=r"has no labels \['ecstatic'\]"):
        load_conversations(name, data_dir=tmp_path, label_set=["ecstatic"])


def test_iemocaps_votes_are_distributions(trees):
    """Each turn of the tree has the votes neutral, and anger or frustration; its speaker's own view does not count."""
    for label_set, share in (("4-class", 2 / 3), ("6-class", 1 / 2)):
        table = load(trees, "iemocap", label_set=label_set, fold=1)["test"]
        names = table.features["emotion"].names
        for row in table:
            shares = row[SOFT_LABELS]
            if row["emotion"] < 0:
                assert shares is None
                continue
            assert sum(shares) == pytest.approx(1)
            assert shares[names.index("neutral")] == pytest.approx(share)
            assert shares[names.index("happy")] == 0


def test_ratings_go_from_0_to_1(trees):
    """IEMOCAP and MSP-IMPROV rate from 1 to 5, MSP-Podcast from 1 to 7."""
    row = load(trees, "iemocap")["session1"][0]
    assert [row[name] for name in DIMENSIONS] == pytest.approx([0.375] * 3)
    improvised = next(iter(load(trees, "msp-improv").values()))
    assert set(improvised["arousal"]) == {0.5}
    assert "valence" not in improvised.column_names
    podcasts = next(iter(load(trees, "msp-podcast").values()))
    assert set(podcasts["arousal"]) == {0.5}
    assert on_scale("NaN", 1, 5) is on_scale(None, 1, 5) is on_scale("", 1, 5) is None
    assert on_scale("7", 1, 7) == 1.0
