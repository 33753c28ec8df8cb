from titans_mal.modeling.shortened import shortened


def test_more_entries_than_are_shown_end_with_dots():
    assert shortened(["a", 2, None]) == "a, 2, None"
    assert shortened("abcd") == "a, b, c, ..."
    assert shortened((name for name in "abc"), 1, separator="; ") == "a; ..."
    assert shortened([]) == ""
