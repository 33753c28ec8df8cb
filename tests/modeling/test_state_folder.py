"""States in a folder: what is written, for how long, and what a killed process loses."""

import os
import time
from pathlib import Path

import pytest

from titans_mal.modeling.conversation_memory_file import STATE_FILE
from titans_mal.modeling.state_folder import StateFolder, StatesInUse, state_key


def test_names_are_kept_whatever_is_in_them(tmp_path):
    states = StateFolder(tmp_path)
    names = ["call 17", "../up", "ü" * 200, "\ud800", ""]
    for number, name in enumerate(names):
        states.write(name, b"%d" % number, seconds=60)
    assert [states.read(name) for name in names] == [b"0", b"1", b"2", b"3", b"4"]
    assert states.names() == sorted(names)
    assert {path.name for path in tmp_path.iterdir()} == {state_key(name) for name in names}
    states.delete("../up")
    assert (states.read("../up"), len(list(tmp_path.iterdir()))) == (None, 4)
    with pytest.raises(TypeError, match="must be a string, got int"):
        state_key(17)


def test_a_state_that_is_over_is_not_read_and_goes(tmp_path):
    states = StateFolder(tmp_path)
    states.write("a", b"old", seconds=60)
    states.write("b", b"kept", seconds=float("inf"))
    past = time.time() - 1
    os.utime(tmp_path / state_key("a") / STATE_FILE, (past, past))
    assert (states.read("a"), states.names()) == (None, ["b"])
    states.forget_old()
    assert [path.name for path in tmp_path.iterdir()] == [state_key("b")]


def test_what_a_killed_process_held_is_lost_for_a_day(tmp_path):
    states = StateFolder(tmp_path)
    for name in ("held", "saved"):
        states.write(name, b"state", seconds=60)
        states.keep_in_memory(name)
    states.write("saved", b"later", seconds=60)
    assert (states.read("held"), states.read("saved"), states.is_lost("held")) == (None, b"later", False)
    del states  # without saving, as a process that is killed
    later = StateFolder(tmp_path)
    assert (later.is_lost("held"), later.is_lost("saved"), later.names()) == (True, False, ["saved"])
    mark = tmp_path / state_key("held") / "lost"
    assert 0 < mark.stat().st_mtime - time.time() <= 24 * 3600
    later.delete("held")
    assert not later.is_lost("held")


@pytest.mark.parametrize("order", [("lost", STATE_FILE), (STATE_FILE, "lost")])
def test_the_record_of_a_loss_and_a_later_state_expire_apart(tmp_path, order):
    """A folder may hold both: earlier versions kept the record when the conversation went on."""
    states, folder = StateFolder(tmp_path), tmp_path / state_key("a")
    states.write("a", b"state", seconds=60)
    states.write("other", b"state", seconds=60)
    (folder / "lost").touch()
    os.utime(folder / "lost", (2**33, 2**33))
    past = time.time() - 1
    os.utime(folder / order[0], (past, past))
    states.forget_old()
    assert states.names() == (["a", "other"] if order[0] == "lost" else ["other"])
    assert ((states.read("a") is not None), states.is_lost("a")) == (order[0] == "lost", order[0] != "lost")
    os.utime(folder / order[1], (past, past))
    states.forget_old()
    assert [path.name for path in tmp_path.iterdir()] == [state_key("other")]


def test_a_conversation_that_is_used_again_needs_no_record_of_its_loss(tmp_path):
    """Its notes report it; after it ends, the next one of that name has lost nothing."""
    StateFolder(tmp_path).keep_in_memory("a")  # and the process is killed
    states = StateFolder(tmp_path)
    assert states.is_lost("a")
    states.keep_in_memory("a")
    assert not states.is_lost("a")
    states.write("a", b"state", seconds=60)
    past = time.time() - 1
    os.utime(tmp_path / state_key("a") / STATE_FILE, (past, past))
    states.forget_old()
    assert not list(tmp_path.iterdir())
    states.keep_in_memory("a")
    del states
    assert StateFolder(tmp_path).is_lost("a")  # killed again


def test_a_folder_is_used_by_one_object_until_it_is_closed_or_deleted(tmp_path):
    folder, link = tmp_path / "states", tmp_path / "link"
    first = StateFolder(folder)
    first.keep_in_memory("a")
    part = first.part("persons")
    part.write("a", b"state", seconds=60)
    assert (part.names(), first.names()) == (["a"], [])
    link.symlink_to(folder, target_is_directory=True)
    for path in (folder, str(folder), link, folder / ".." / "states", os.path.relpath(folder)):
        with pytest.raises(StatesInUse, match="in use by another process, or by another store in this process"):
            StateFolder(path)
        with pytest.raises(StatesInUse):
            StateFolder(Path(path) / "persons")
    assert not first.is_lost("a")  # the refused ones changed nothing
    first.close()
    first.close()
    second = StateFolder(link)
    first.close()  # which does not release the lock of another
    with pytest.raises(StatesInUse):
        StateFolder(folder)
    del second
    assert StateFolder(folder).is_lost("a")


def test_an_object_is_taken_by_one_store(tmp_path):
    states = StateFolder(tmp_path / "taken")
    states.take()
    closed = StateFolder(tmp_path / "closed")
    closed.close()
    for one in (states, closed):
        with pytest.raises(StatesInUse, match="given to another store, or is closed"):
            one.take()
