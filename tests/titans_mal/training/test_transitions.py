"""Emotion transitions counted in a training split, and what an evaluation of such a model reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import log_softmax
from tiny_models import LABELS, tiny_model, tiny_processor

from titans_mal import evaluate_conversations, load_conversations
from titans_mal.evaluation.baselines import decode_dialogues, emotion_transitions
from titans_mal.evaluation.calibrate import calibrate
from titans_mal.training import fit_emotion_transitions


@pytest.fixture(scope="module")
def tables(talks_folder):
    return load_conversations(talks_folder, label_set=LABELS)


def logits_of(folder, condition: str) -> np.ndarray:
    """(turns, labels), as the progress files hold them."""
    lines = [json.loads(path.read_text()) for path in (folder / "progress").glob("group-*.json")]
    rows = {int(row): logits for line in lines for row, logits in line["scores"][condition]["logits"].items()}
    assert len(rows) == 7
    return np.array([rows[row] for row in sorted(rows)])


def test_transitions_are_ratios_of_the_training_split(tables):
    model = tiny_model()
    fit_emotion_transitions(model, tables["train"])
    prior, transitions = emotion_transitions(
        tables["train"]["emotion"], tables["train"]["conversation_id"], len(LABELS)
    )
    np.testing.assert_allclose(model.config.emotion_transitions, transitions / prior)
    # Labels are those of the model, in its order.
    other = tiny_model(id2label=dict(enumerate(reversed(LABELS))))
    fit_emotion_transitions(other, tables["train"])
    np.testing.assert_allclose(other.config.emotion_transitions, (transitions / prior)[::-1, ::-1])


def test_unknown_labels_and_a_model_without_a_readout_are_rejected(tables):
    with pytest.raises(ValueError, match="must be labels of the model's readout"):
        fit_emotion_transitions(tiny_model(id2label=dict(enumerate("abcd"))), tables["train"])
    without = tiny_model(emotion_readout=None, emotion_dimensions=["valence"])
    with pytest.raises(ValueError, match=r"it knows \[\]"):
        fit_emotion_transitions(without, tables["train"])
    assert without.config.emotion_transitions is None


def test_an_evaluation_scores_with_the_model_s_own_transitions(tables, tmp_path):
    model, processor = tiny_model(emotion_readout="linear", emotion_temperature=2.0), tiny_processor()
    model.emotion_head.weight.data.mul_(20)
    conditions = ("memory", "memory_off", "reset", "other_state")
    # No common speaker, so that the training split has partners.
    train = tables["train"].map(lambda turn: {"speaker": f"train {turn['speaker']}"})

    def evaluated(name: str):
        return evaluate_conversations(
            model,
            processor,
            tables["test"],
            tmp_path / name,
            train=train,
            conditions=conditions,
            resamples=100,
        )

    raw = evaluated("raw")
    fit_emotion_transitions(model, tables["train"])
    own = evaluated("own")
    assert [of.content["model"].get("emotion_transitions") for of in (raw, own)] == [None, True]
    assert raw.content["model"]["weights"] != own.content["model"]["weights"]
    # Without history, nothing is followed.
    for name in ("memory_off", "reset"):
        np.testing.assert_array_equal(logits_of(tmp_path / "own", name), logits_of(tmp_path / "raw", name))
    assert not np.allclose(logits_of(tmp_path / "own", "other_state"), logits_of(tmp_path / "raw", "other_state"))
    # "memory" is what the other report calls "memory_transitions", which would otherwise count them twice.
    chances = emotion_transitions(tables["train"]["emotion"], tables["train"]["conversation_id"], len(LABELS))
    names = tables["test"]["conversation_id"][:]
    decoded = decode_dialogues(logits_of(tmp_path / "raw", "memory") / 2, names, *chances)
    followed = logits_of(tmp_path / "own", "memory")
    np.testing.assert_allclose(log_softmax(followed / 2, -1), decoded, atol=1e-4)
    assert [turn["predicted"]["memory"] for turn in own.predictions] == [
        turn["predicted"]["memory_transitions"] for turn in raw.predictions
    ]
    assert "memory_transitions" not in own.conditions
    assert own.content["left_out"]["memory_transitions"] == "the model itself follows emotion transitions"


def test_calibration_leaves_the_transitions_out(tables, tmp_path):
    model, processor = tiny_model(emotion_readout="linear"), tiny_processor()
    raw = calibrate(model, processor, tables["test"], tmp_path / "raw")
    model.config.emotion_temperature = 1.0
    fit_emotion_transitions(model, tables["train"])
    with pytest.warns(UserWarning, match="are those of turns without the model's emotion transitions"):
        own = calibrate(model, processor, tables["test"], tmp_path / "own")
    np.testing.assert_allclose(own.logits, raw.logits, atol=1e-5)
    assert own.temperature == pytest.approx(raw.temperature)
    assert model.config.emotion_transitions is not None
