"""Which cache a batch of lanes gets, and which lanes begin again."""

from tiny_models import tiny_config

from titans_mal.training.lane_states import LaneStates


def test_each_batch_of_lanes_has_its_cache_and_beginnings_are_emptied(monkeypatch):
    states = LaneStates(tiny_config(), lanes=2)
    first, second = states.of_batch([0, 1], []), states.of_batch([2, 3], [])
    assert first is not second
    assert (first.batch_size, second.batch_size) == (2, 2)
    assert states.of_batch([0, 1], [0, 1]) is first  # nothing is known of them yet
    emptied = []
    monkeypatch.setattr(second, "reset", emptied.append)
    second.conversation_ids = {3: 0, 2: 1}
    states.of_batch([2, 3], [2])
    assert emptied == [[1]]
    states.of_batch([2, 3], [])
    assert emptied == [[1]]


def test_states_that_hold_nothing_are_not_saved(tmp_path):
    states = LaneStates(tiny_config(), lanes=1)
    states.of_batch([0], [])
    states.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    states.load(tmp_path, "cpu")
    assert not states.of_batch([0], []).is_initialized
