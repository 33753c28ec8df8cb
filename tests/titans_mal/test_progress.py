"""How far long work is, as lines of text."""

import itertools

import pytest

from titans_mal import progress


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock is six seconds after the one before."""
    times = itertools.count(0.0, 6.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))


def test_lines_tell_what_is_done_and_the_time_left(clock, capsys):
    items = list(progress.with_progress([3, 1, 4, 2], total=10, description="turns", size=lambda item: item))
    assert items == [3, 1, 4, 2]
    # Not before ten seconds, and not at the end, when nothing is left.
    assert capsys.readouterr().err == "turns: 4 of 10, 0:00:18 left\n"


def test_nothing_is_printed_of_quick_work(capsys):
    assert list(progress.with_progress("ab", total=2, description="turns")) == ["a", "b"]
    assert capsys.readouterr().err == ""
