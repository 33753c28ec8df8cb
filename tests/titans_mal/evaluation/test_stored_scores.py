"""What was scored so far, on disk."""

from types import SimpleNamespace

import pytest

from titans_mal.evaluation.stored_scores import StoredScores


STATE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


def test_a_run_goes_on_with_groups_that_were_not_scored_whole(tmp_path):
    first = StoredScores(tmp_path / "progress", {"seed": 1, "names": ("a",)}, STATE)
    assert first.done == set()
    first.write({"group": 1, "not_scored": {}, "scores": {}})
    first.write({"group": 0, "not_scored": {"3": "broken"}, "scores": {}})
    second = StoredScores(tmp_path / "progress", {"seed": 1, "names": ("a",)}, STATE)
    assert second.done == {1}
    assert [group["group"] for group in second.read()] == [0, 1]


def test_another_run_is_rejected(tmp_path):
    StoredScores(tmp_path / "progress", {"seed": 1, "model": "a"}, STATE)
    with pytest.raises(ValueError, match="a different seed"):
        StoredScores(tmp_path / "progress", {"seed": 2, "model": "a"}, STATE)
    with pytest.raises(ValueError, match="a different model"):
        StoredScores(tmp_path / "progress", {"seed": 1}, STATE)
    with pytest.raises(ValueError, match="a different partners"):
        StoredScores(tmp_path / "progress", {"seed": 1, "model": "a", "partners": 2}, STATE)


def test_the_name_of_a_model_may_differ(tmp_path):
    """As that of a folder which is spelled in another way."""
    run = {"model": {"name": "out/model", "weights": "a"}}
    StoredScores(tmp_path / "progress", run, STATE).write({"group": 0, "not_scored": {}, "scores": {}})
    again = StoredScores(tmp_path / "progress", {"model": {"name": "/abs/out/model", "weights": "a"}}, STATE)
    assert again.done == {0}
    with pytest.raises(ValueError, match="a different model"):
        StoredScores(tmp_path / "progress", {"model": {"name": "out/model", "weights": "b"}}, STATE)


def test_numbers_that_are_not_finite_are_not_kept(tmp_path):
    progress = StoredScores(tmp_path / "progress", {}, STATE)
    with pytest.raises(ValueError, match="JSON"):
        progress.write({"group": 0, "not_scored": {}, "scores": float("nan")})
    assert progress.read() == []


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    StoredScores(tmp_path / "progress", {}, STATE)
    (tmp_path / "progress" / "group-000000.json").write_text("{")
    with pytest.raises(ValueError, match="group-000000"):
        StoredScores(tmp_path / "progress", {}, STATE)
