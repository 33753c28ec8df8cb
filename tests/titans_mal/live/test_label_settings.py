"""How the label of a live turn is chosen."""

import math

import pytest
import torch

from titans_mal.live.label_settings import LabelSettings
from titans_mal.modeling.turn_scoring import ScoredTurn


KNOWN = ["calm", "glad", "sad"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("glad", 0.6)),
        ({"labels": ["calm", "sad"]}, ("sad", 0.75)),
        ({"unknown_below": 0.61}, ("unknown", 0.6)),
        # Squared and scaled: 0.01, 0.36, 0.09 of 0.46.
        ({"temperature": 0.5}, ("glad", 0.36 / 0.46)),
    ],
)
def test_a_label_is_chosen(settings, expected):
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    turn = ScoredTurn(logits, tuple(KNOWN), None, 1.0)
    label, score, scores = LabelSettings(**settings).choose(turn, "x")
    assert (label, score) == (expected[0], pytest.approx(expected[1]))
    assert sum(scores.values()) == pytest.approx(1)


def test_other_speakers_have_no_label():
    turn = ScoredTurn(torch.zeros(3), tuple(KNOWN), None, 1.0)
    for speaker in ("agent", None):
        assert LabelSettings(score=["caller"]).choose(turn, speaker) == (None, None, {})
    assert LabelSettings(score=["caller"]).choose(turn, "caller")[0] in KNOWN


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan, "1", True])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        LabelSettings(temperature=temperature)


def test_errors_are_short():
    with pytest.raises(ValueError, match="labels must be different labels out of") as error:
        LabelSettings(["x" * 1_000_000]).check(["sad"])
    assert len(str(error.value)) < 200
    with pytest.raises(ValueError, match="unknown_below must be in"):
        LabelSettings(unknown_below="no").check(["sad"])


def test_settings_are_checked_against_the_labels():
    LabelSettings(labels=["sad"], unknown_below=1.0).check(KNOWN)
    for settings in (LabelSettings(labels=["cross"]), LabelSettings(unknown_below=1.5)):
        with pytest.raises(ValueError, match=r"cross|1\.5"):
            settings.check(KNOWN)
    with pytest.raises(ValueError, match="A speaker"):
        LabelSettings(score=["x" * 201])
    with pytest.raises(ValueError, match="score must be a sequence of speakers, got the text 'agent'"):
        LabelSettings(score="agent")
