"""One rule for what a turn may be."""

import numpy as np
import pytest

from titans_mal.modeling.turn_rules import (
    check_named,
    check_speakers,
    check_times,
    check_turn_index,
    fit_turn,
    pieces_at_pauses,
    speaker_number,
)


@pytest.mark.parametrize(
    ("seconds", "length", "processed"), [(0.01, 0.2, 0.01), (0.2, 0.2, 0.2), (1.0, 1.0, 1.0), (4.0, 3.0, 3.0)]
)
def test_the_length_of_a_turn(seconds, length, processed):
    waveform = np.ones(round(seconds * 1000), np.float32)
    fitted, used = fit_turn(waveform, 1000, min_seconds=0.2, max_seconds=3.0)
    assert (len(fitted), used) == (round(length * 1000), processed)
    assert fitted.sum() == min(len(waveform), 3000)
    assert fitted[0] == 1.0  # what is padded is the end


def test_a_host_without_a_window_cuts_nothing():
    fitted, used = fit_turn(np.ones(10_000), 10, min_seconds=0.1, max_seconds=None)
    assert (len(fitted), used) == (10_000, 1000.0)


def test_times():
    assert check_times(None, None) == (None, None)
    assert check_times(1, 1.0) == (1, 1.0)
    assert check_times(np.float32(0.5), np.int64(2)) == (0.5, 2)
    with pytest.warns(UserWarning, match="got -0.1 s: 0 s is used"):
        assert check_times(-0.1, 2.0) == (0.0, 2.0)
    for start, end in (
        (-0.11, None),
        (2.0, 1.0),
        (None, "2"),
        (None, -1),
        (np.nan, None),
        (False, None),
        (10**400, None),
    ):
        with pytest.raises(ValueError, match="Turn 7"):
            check_times(start, end, name="Turn 7")


def test_the_order_of_turns():
    check_turn_index(None, 3)
    check_turn_index(3, 3)
    check_turn_index(0)
    for index, before, each_once in ((2, 3, False), (3, 3, True), (np.inf, None, False), ("1", None, False)):
        with pytest.raises(ValueError, match="turn_index="):
            check_turn_index(index, before, each_once=each_once)


def test_speakers():
    check_named(["A", "0", " B ", "unknown_17"])
    for nobody in (None, "", " \t", "unknown", "<NA>", "nan", "NaN", "None", "null", "N/A"):
        with pytest.raises(ValueError, match="has no speaker, but speaker_ids are needed"):
            check_named(["A", nobody])
    check_speakers(["A", "B", "A"], 2)
    with pytest.raises(ValueError, match=r"max_speakers=2 .* 'call' has \['A', 'B', 'C'\]"):
        check_speakers("ABC", 2, conversation="call")
    with pytest.raises(ValueError, match="max_speakers=2") as error:
        check_speakers([str(i) * 5000 for i in range(500)], 2)
    assert len(str(error.value)) < 500
    assert speaker_number("A") == speaker_number("A") != speaker_number("B")


def test_a_long_turn_is_cut_where_it_is_quietest():
    rate = 1000
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 10_500).astype(np.float32)
    for pause in (800, 2500, 4600):  # the first is in no second half of a piece
        waveform[pause - 100 : pause + 100] *= 0.01
    pieces = pieces_at_pauses(waveform, rate, 3.0)
    assert [first for first, _ in pieces[1:]] == [last for _, last in pieces[:-1]]
    assert (pieces[0][0], pieces[-1][1]) == (0, len(waveform))
    assert [last for _, last in pieces[:2]] == [2500, 4600]
    assert all(200 <= last - first <= 3000 for first, last in pieces)
    # Without a pause as late as may be, and of silence likewise; a turn of that length is one piece.
    assert pieces_at_pauses(np.zeros(3100, np.float32), rate, 3.0) == [(0, 2900), (2900, 3100)]
    assert pieces_at_pauses(waveform[:3000], rate, 3.0) == [(0, 3000)]
    with pytest.raises(ValueError, match=r"Pieces of a turn last at least 0\.4 s, got 0\.3 s"):
        pieces_at_pauses(waveform, rate, 0.3)
