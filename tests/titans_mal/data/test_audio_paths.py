"""Which audio file a table means."""

import pytest

from titans_mal.data.audio_paths import audio_files, extra_files, find_audio, resolve_files
from titans_mal.data.table import Turn


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "copy" / "wav"
    folder.mkdir(parents=True)
    for name in ("b_1.WAV", "b_2.flac", "b_2.mp3", "._b_1.wav", "notes.txt"):
        (folder / name).touch()
    return tmp_path


def test_audio_is_found_in_nested_folders(root):
    folder = root / "copy" / "wav"
    assert find_audio(root, "audio", "wav") == folder
    assert find_audio(root, "", stem="b_[0-9]") == folder
    assert {path.name for path in audio_files(folder)} == {"b_1.WAV", "b_2.flac", "b_2.mp3"}
    with pytest.raises(FileNotFoundError, match="audio"):
        find_audio(root, "audio")
    with pytest.raises(FileNotFoundError, match="c_"):
        find_audio(root, "wav", stem="c_*")


def test_paths_follow_the_copy_s_capitals_and_formats(root):
    folder = root / "copy" / "wav"
    turns = [Turn("a", "A", str(folder / name)) for name in ("b_1.wav", "b_2.mp4", "b_2.mp3", "b_3.wav")]
    (problem,) = resolve_files(turns)
    # FLAC is preferred to MP3, but a file with the very name is taken.
    assert [turn.audio for turn in turns] == [str(folder / n) for n in ("b_1.WAV", "b_2.flac", "b_2.mp3", "b_3.wav")]
    assert problem.kind == "renamed"
    assert problem.detail.startswith("2 files")


def test_files_without_a_turn_are_extra(root):
    folder = root / "copy" / "wav"
    (problem,) = extra_files(folder, [str(folder / "B_2.wav")], split="test")
    assert (problem.kind, problem.file, problem.split) == ("extra", str(folder / "b_1.WAV"), "test")
    assert extra_files(root / "nowhere", []) == []
