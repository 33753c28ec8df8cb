import numpy as np
import pytest

from titans_mal import load_audio, synthetic_conversations
from titans_mal.data.synthetic.suites import EMOTIONS, carry_over
from titans_mal.data.synthetic.voices import SAMPLING_RATE
from titans_mal.data.table import COLUMNS


def test_the_same_seed_gives_the_same_audio():
    one, same, other = (synthetic_conversations(2, seed=seed) for seed in (3, 3, 4))
    assert one.to_dict() == same.to_dict()
    assert one[0]["audio"]["bytes"] != other[0]["audio"]["bytes"]


def test_the_table_is_that_of_conversations():
    table = synthetic_conversations(3, seed=0)
    assert table.column_names == list(COLUMNS)
    assert len(table) == 24
    assert table.features["emotion"].names == list(EMOTIONS)
    for row in table:
        waveform = load_audio(row["audio"])
        assert len(waveform) / SAMPLING_RATE == pytest.approx(row["end"] - row["start"], abs=1e-3)
        assert np.isfinite(waveform).all()
        assert 1e-4 < np.abs(waveform).max() <= 1.0
    starts = np.array(table["start"]).reshape(3, 8)
    assert (np.diff(starts) > 0).all()


def test_a_suite_is_spoken_by_its_script():
    table = synthetic_conversations(2, seed=5, suite=carry_over(), split="train")
    script = carry_over().draw(np.random.default_rng((5, 1)))
    assert table[12:]["emotion"] == [turn.emotion for turn in script.turns]
    # A speaker is of one conversation, and is called so.
    assert table[12:]["speaker"] == [f"{table[12]['conversation_id']}_{'AB'[turn.speaker]}" for turn in script.turns]
    assert set(table["split"]) == {"train"}
    assert table.info.dataset_name == "synthetic-carry-over"


def test_introductions_are_processed_but_not_scored():
    assert [emotion < 0 for emotion in synthetic_conversations(1, seed=0)["emotion"]] == [True, True] + [False] * 6
