"""Files are complete or not there."""

import pytest

from titans_mal.modeling.atomic_files import replace_text, replacing


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    file = tmp_path / "state.json"
    file.write_text("old")
    with replacing(file) as draft:
        draft.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_file_is_left_as_it_was(tmp_path, error):
    file = tmp_path / "state.json"
    for before in (False, True):
        if before:
            file.write_text("old")
        with pytest.raises(error):
            _interrupt(file, error)
        assert file.exists() == before
        assert len(list(tmp_path.iterdir())) == before


def _interrupt(file, error):
    with replacing(file) as draft:
        draft.write_text("half")
        raise error


def test_two_drafts_of_a_file_are_different_files(tmp_path, monkeypatch):
    with replacing(tmp_path / "a") as one:
        monkeypatch.setattr("os.getpid", lambda: 1)
        with replacing(tmp_path / "a") as other:
            assert one != other
            for draft in (one, other):
                draft.touch()


def test_text_is_written_in_utf_8(tmp_path):
    replace_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()
