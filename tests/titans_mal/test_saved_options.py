"""Which options of two runs differ."""

from titans_mal.saved_options import differing_options


def test_options_that_differ_are_named_with_both_values():
    then, now = {"seed": 1, "fold": 2, "gone": 3}, {"seed": 1, "fold": 4, "new": None}
    assert differing_options(then, now) == {"fold": "fold: 2 then, 4 now", "gone": "gone: 3 then, None now"}
    assert differing_options(then, now, ignored=("gone", "fold")) == {}
    assert differing_options(then, dict(then)) == {}
