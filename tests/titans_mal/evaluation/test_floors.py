"""Floors and the normalised baseline by hand."""

import numpy as np
import pytest

from titans_mal.evaluation.floors import copy_previous, majority, speaker_normalised


def test_the_majority_is_of_scored_turns_and_the_first_of_equals():
    assert majority(np.array([-1, -1, -1, 2, 1]), 4) == 1
    assert majority(np.array([3, 0, 3]), 4) == 3


def test_the_previous_gold_label_is_the_same_speakers_in_the_same_conversation():
    references = np.array([1, 2, -1, 3, 0, 0])
    conversations, speakers = ["a", "a", "a", "a", "b", "b"], ["x", "y", "x", "x", "x", "x"]
    # An unscored turn is copied to, not from.
    assert copy_previous(references, conversations, speakers, 9).tolist() == [9, 9, 1, 1, 9, 0]


def test_logits_are_normalised_by_the_turns_so_far():
    """Centred logits +-1, then +-3: mean and square with one more turn of 0 and 1, (1, 1) / 2 and (4, 11) / 3."""
    logits = np.array([[2.0, 0.0], [10.0, 4.0], [1.0, 3.0]])
    scores = speaker_normalised(logits, ["a", "a", "b"], ["x", "x", "x"])
    first = (1 - 1 / 2) / np.sqrt(2 / 2 - 1 / 4)
    second = (3 - 4 / 3) / np.sqrt(11 / 3 - 16 / 9)
    assert scores.tolist() == [
        pytest.approx([first, -first]), pytest.approx([second, -second]), pytest.approx([-first, first])
    ]  # fmt: skip
