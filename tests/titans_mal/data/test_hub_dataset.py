"""Datasets of the Hub, from parquet files on this machine."""

import datasets
import numpy as np
import pytest
from tiny_models import tone

from titans_mal import load_audio, load_conversations
from titans_mal.data import hub_dataset
from titans_mal.data.synthetic.voices import to_wav
from titans_mal.data.table import COLUMNS


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts splits of rows where `load_dataset("org/talks")` finds them."""

    def put(rows, **features):
        table = datasets.Dataset.from_list(rows)
        for name, feature in features.items():
            table = table.cast_column(name, feature)
        for split in ("train", "test"):
            table.to_parquet(tmp_path / "talks" / f"{split}.parquet")

    load = datasets.load_dataset
    monkeypatch.setattr(hub_dataset, "load_dataset", lambda name: load(str(tmp_path / name.split("/")[1])))
    return put


def rows(**names):
    """Three turns of "b" and two of "a", of which one is broken, listed in another order than they were spoken."""
    made = []
    for number, (talk, index) in enumerate([("b", 2), ("b", 0), ("a", 1), ("b", 1), ("a", 0)]):
        audio = b"RIFF" if number == 3 else to_wav(tone(0.5, frequency=100 + 50 * number))
        made.append(
            {
                names.get("conversation_id", "conversation_id"): talk,
                "turn_index": index,
                "speaker": number % 2,
                "audio": {"bytes": audio, "path": f"{number}.wav"},
                names.get("emotion", "emotion"): number % 3,
                "note": "not ours",
            }
        )
    return made


LABELS = datasets.ClassLabel(names=["sad", "happy", "bored"])


def test_rows_that_are_turns(hub):
    hub(rows(), emotion=LABELS)
    with pytest.warns(UserWarning, match=r"org/talks: turns that cannot be used \(2 broken\)"):
        conversations = load_conversations("org/talks", label_set={"sad": "sad", "happy": "joy"})
    assert set(conversations) == {"train", "test"}
    table = conversations["test"]
    assert table.column_names == list(COLUMNS)
    assert list(zip(table["conversation_id"], table["turn_index"])) == [("a", 0), ("a", 1), ("b", 0), ("b", 2)]
    assert table.features["emotion"].names == ["sad", "joy"]
    # Rows 4, 2, 1 and 0 of the dataset; "bored" is outside of the set.
    assert table["emotion"][:] == [1, -1, 1, 0]
    for row, number in zip(table, (4, 2, 1, 0)):
        np.testing.assert_allclose(load_audio(row["audio"]), tone(0.5, frequency=100 + 50 * number), atol=1e-4)
    assert conversations.problems[0].file == "org/talks, row 3"


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_renamed_columns(hub):
    hub(rows(conversation_id="dialogue", emotion="label"), label=LABELS)
    given = {"conversation_id": "dialogue", "emotion": "label"}
    table = load_conversations("org/talks", columns=given)["test"]
    assert table["conversation_id"][:] == ["a", "a", "b", "b"]
    assert table.features["emotion"].names == ["bored", "happy", "sad"]
    with pytest.raises(ValueError, match=r"lacks the columns \['conversation_id'\]; it has .*'dialogue'"):
        load_conversations("org/talks")
    with pytest.raises(ValueError, match=r"columns must map from .* got \['dialogue'\]"):
        load_conversations("org/talks", columns={"dialogue": "conversation_id"})
    with pytest.raises(ValueError, match=r"lacks the columns \['feeling'\]"):
        load_conversations("org/talks", columns={**given, "emotion": "feeling"})


def test_rows_without_audio_or_speaker(hub):
    made = rows()
    made[0]["audio"] = made[1]["speaker"] = None
    hub(made, emotion=LABELS)
    with pytest.warns(UserWarning, match=r"2 broken, 2 missing|2 missing, 2 broken"):
        table = load_conversations("org/talks")["test"]
    assert table["speaker"][:] == ["0", "0", None]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"turn_index": 0}, "row 3: turn 0 of 'b' is also row 1"),
        ({"turn_index": None}, r"row 3: turn_index must be an integer from 0 and below 2\^63, got None"),
        ({"turn_index": -1}, "got -1"),
        ({"conversation_id": None}, "row 3: conversation_id is empty"),
        ({"conversation_id": " NaN"}, "row 3: conversation_id is empty"),
        ({"start": 2.0, "end": 1.0}, r"row 3: a turn must start at 0 s or later and end after that, got 2\.0 to 1\.0"),
        ({"start": float("nan"), "end": 1.0}, "row 3: a turn must start"),
    ],
)
def test_invalid_rows_are_dropped_and_named(hub, fields, message):
    made = [{**row, "start": 0.0, "end": 1.0} for row in rows()]
    made[3] |= fields
    hub(made, emotion=LABELS)
    with pytest.warns(UserWarning, match=rf"2 unreadable\); the first is unreadable: org/talks: train, .*{message}"):
        conversations = load_conversations("org/talks")
    table = conversations["train"]
    assert table.num_rows == len(made) - 1
    assert all(load_audio(row["audio"]).any() for row in table)
    with pytest.raises(ValueError, match=message):
        load_conversations("org/talks", strict=True)


def test_changed_files_are_inspected_again(hub, tmp_path):
    made = rows()[:1]
    path = tmp_path / "audio.wav"
    made[0]["audio"] = {"bytes": None, "path": str(path)}
    hub(made, emotion=LABELS)
    for seconds in (0.5, 1.5):
        path.write_bytes(to_wav(tone(seconds)))
        assert load_conversations("org/talks")["test"]["seconds"][:] == [seconds]


def test_fields_that_are_not_given_and_blanks_around_text(hub):
    """As pandas writes them; a class of the dataset may have any name."""
    given = {"start": 0.0, "end": 1.0, "emotion": "happy"}
    made = [row | given | {"speaker": str(row["speaker"])} for row in rows()]
    made[1] |= {"speaker": "nan", "emotion": "NaN", "start": float("nan"), "end": float("nan")}
    made[2] |= {"speaker": "None", "emotion": " happy "}
    hub(made, emotion=datasets.Value("string"))
    with pytest.warns(UserWarning, match="2 broken"):
        table = load_conversations("org/talks")["train"]
    assert table.features["emotion"].names == ["happy"]
    assert sorted(table["emotion"][:]) == [-1, *[0] * (len(table) - 1)]
    assert table["speaker"][:].count(None) == 2
    assert table["start"][:].count(None) == 1


def test_labels_need_names(hub):
    hub(rows())
    with pytest.raises(ValueError, match="'emotion' must be a ClassLabel or strings, got int64"):
        load_conversations("org/talks")
    with pytest.raises(ValueError, match="has no named label sets"):
        load_conversations("org/talks", label_set="4-class")
    with pytest.raises(ValueError, match="fold does not apply"):
        load_conversations("org/talks", fold=1)
