"""Floors by hand."""

import numpy as np

from titans_mal.evaluation.floors import copy_previous, majority


def test_the_majority_is_of_scored_turns_and_the_first_of_equals():
    assert majority(np.array([-1, -1, -1, 2, 1]), 4) == 1
    assert majority(np.array([3, 0, 3]), 4) == 3


def test_the_previous_gold_label_is_the_same_speakers_in_the_same_conversation():
    references = np.array([1, 2, -1, 3, 0, 0])
    conversations, speakers = ["a", "a", "a", "a", "b", "b"], ["x", "y", "x", "x", "x", "x"]
    # An unscored turn is copied to, not from.
    assert copy_previous(references, conversations, speakers, 9).tolist() == [9, 9, 1, 1, 9, 0]
