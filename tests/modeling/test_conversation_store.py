"""The store of many conversations: bounded, on disk and back, for a time, from many threads."""

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from tiny_models import assert_same_state, state_of, tiny_model, tiny_turns

from titans_mal import ConversationMemoryCache, ConversationStore
from titans_mal.modeling.state_folder import StateFolder, StatesInUse


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@torch.no_grad()
def score(model, cache, seed):
    return model(**tiny_turns(1, seed=seed), memory_cache=cache).emotion_logits


def fail_in_the_second_turn(model, cache):
    score(model, cache, seed=1)
    model(**tiny_turns(1), memory_cache=cache, conversation_ids=[1, 2])


def test_conversations_are_moved_to_disk_and_restored_bit_identically(model, tmp_path):
    store = ConversationStore(model, tmp_path, max_live=2)
    alone = {name: ConversationMemoryCache(model.config) for name in "abcd"}
    for turn in range(3):
        for place, name in enumerate("abcd"):
            with store.conversation(name) as cache:
                expected = score(model, alone[name], seed=10 * place + turn)
                assert torch.equal(score(model, cache, seed=10 * place + turn), expected)
                assert_same_state(state_of(cache), state_of(alone[name]))
    assert store.live == ["c", "d"]
    # What is at hand lies nowhere else: were the process to end, no older state would be taken for it.
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 2
    # Those at hand are written too before a server stops, for the next one to go on.
    store.close()
    with pytest.raises(RuntimeError, match="The store is closed"), store.conversation("a"):
        pass
    store.close()
    again = ConversationStore(model, tmp_path)
    for name in "abcd":
        with again.conversation(name) as cache:
            assert_same_state(state_of(cache), state_of(alone[name]))


def test_the_least_recently_used_conversation_is_evicted_first(model):
    store = ConversationStore(model, max_live=2)
    for name in "abac":
        with store.conversation(name) as cache:
            score(model, cache, seed=0)
    assert store.live == ["a", "c"]


def test_a_failure_leaves_the_conversation_unchanged(model, tmp_path):
    store = ConversationStore(model, tmp_path)
    with store.conversation("a") as cache:
        score(model, cache, seed=0)
        before = state_of(cache)
    for reset in (False, True):
        with pytest.raises(ValueError, match="conversation_ids"), store.conversation("a", reset=reset) as cache:
            fail_in_the_second_turn(model, cache)
        with store.conversation("a") as cache:
            assert_same_state(state_of(cache), before)
    store.save()
    with store.conversation("a", reset=True) as cache:
        assert cache.turns.tolist() == [0]
    assert not list(tmp_path.glob("*/*.safetensors"))
    store.close()
    with ConversationStore(model, tmp_path).conversation("a") as cache:
        assert cache.turns.tolist() == [0]


def test_a_failed_first_turn_leaves_no_conversation(model, tmp_path):
    store = ConversationStore(model, tmp_path, max_live=1)
    with store.conversation("kept") as cache:
        score(model, cache, seed=0)
    for name, reset in (("new", False), ("new", True), ("kept", True)):
        with pytest.raises(ValueError, match="conversation_ids"), store.conversation(name, reset=reset) as cache:
            fail_in_the_second_turn(model, cache)
        assert (store.names(), store.live, store.counts["evicted"]) == (["kept"], ["kept"], 0)
    store.save()
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 1


def test_a_failed_turn_of_a_stored_conversation_leaves_it_there(model, tmp_path):
    store = ConversationStore(model, tmp_path, max_live=1)
    for name in "ab":  # "a" goes to disk
        with store.conversation(name) as cache:
            score(model, cache, seed=0)
    with pytest.raises(ValueError, match="conversation_ids"), store.conversation("a") as cache:
        fail_in_the_second_turn(model, cache)
    assert (store.names(), store.live) == (["a", "b"], ["b"])
    with store.conversation("a") as cache:
        assert cache.turns.tolist() == [1]


def test_conversations_are_forgotten_after_a_time(model, tmp_path, monkeypatch):
    store = ConversationStore(model, tmp_path, max_live=1, time_to_live=100)
    now = time.time()
    for name in "ab":  # "a" goes to disk
        with store.conversation(name) as cache:
            score(model, cache, seed=0)
    (on_disk,) = tmp_path.glob("*/*.safetensors")
    monkeypatch.setattr("time.time", lambda: now + 90)
    with store.conversation("b") as cache:
        assert cache.turns.tolist() == [1]
    os.utime(on_disk, (now - 20, now - 20))
    with store.conversation("a") as cache:
        assert cache.turns.tolist() == [0]
        score(model, cache, seed=0)  # "b" goes to disk
    monkeypatch.setattr("time.time", lambda: now + 300)
    with store.conversation("b") as cache:
        assert cache.turns.tolist() == [0]
        score(model, cache, seed=0)
    # One at hand, by another clock; and neither saving nor leaving for disk is using it.
    later = time.monotonic() + 90
    monkeypatch.setattr("time.monotonic", lambda: later)
    store.save()
    with store.conversation("c") as cache:
        score(model, cache, seed=0)
    monkeypatch.setattr("time.time", lambda: now + 300 + 20)
    with store.conversation("b") as cache:
        assert cache.turns.tolist() == [0]
    with store.conversation("b") as cache:
        score(model, cache, seed=0)
    monkeypatch.setattr("time.monotonic", lambda: later + 200)
    with store.conversation("b") as cache:
        assert cache.turns.tolist() == [0]


def test_names_cannot_escape_the_folder(model, tmp_path):
    store = ConversationStore(model, tmp_path / "states")
    for name in ("../../up", "/etc/passwd", "a" * 5000, "\0", "née", "\ud800"):
        with store.conversation(name) as cache:
            score(model, cache, seed=0)
    store.save()
    assert {path.name for path in tmp_path.iterdir()} == {"states"}
    assert len(list((tmp_path / "states").iterdir())) == 6
    for name in (17, None, b"x"):
        with pytest.raises(TypeError, match="name must be a string"), store.conversation(name, reset=True):
            pass
    assert len(store.live) == 6


def test_foreign_files_in_the_folder_are_kept(model, tmp_path, monkeypatch):
    cache = ConversationMemoryCache(model.config)
    score(model, cache, seed=0)
    cache.save_pretrained(tmp_path / "my_model")
    store = ConversationStore(model, tmp_path, time_to_live=100)
    with store.conversation("a") as cache:
        score(model, cache, seed=0)
    store.save()
    (own,) = {path.parent for path in tmp_path.glob("*/*.safetensors")} - {tmp_path / "my_model"}
    (own / "notes.txt").write_text("mine")
    now, later = time.time(), time.monotonic()
    monkeypatch.setattr("time.time", lambda: now + 1e6)
    monkeypatch.setattr("time.monotonic", lambda: later + 1e6)
    with store.conversation("b"):
        pass
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "conversation_memory.safetensors",
        "notes.txt",
    }
    assert (tmp_path / "my_model" / "conversation_memory.safetensors").is_file()


def test_a_thread_cannot_use_a_conversation_twice(model):
    store = ConversationStore(model)
    with store.conversation("a"):
        with pytest.raises(RuntimeError, match="in use by this thread"), store.conversation("a"):
            pass
        with store.conversation("b"):
            pass
        for use in (store.save, lambda: store.peek("a")):
            with pytest.raises(RuntimeError, match="in use by this thread"):
                use()
        assert store.peek("b") is None
    with store.conversation("a"):
        pass
    assert store.peek("a") is None


def test_a_look_from_another_thread_waits_for_the_end_of_a_turn(model):
    store, found = ConversationStore(model), []
    with store.conversation("a") as cache:
        looking = threading.Thread(target=lambda: found.append(store.peek("a")))
        looking.start()
        looking.join(timeout=0.2)
        assert looking.is_alive()
        assert not found
        score(model, cache, seed=0)
    looking.join(timeout=30)
    assert found[0].turns.tolist() == [1]


def test_a_state_of_other_weights_is_rejected_until_reset(model, tmp_path):
    store = ConversationStore(model, tmp_path)
    with store.conversation("a") as cache:
        score(model, cache, seed=0)
    store.close()
    other = tiny_model(seed=1)
    score(other, ConversationMemoryCache(other.config), seed=0)
    store = ConversationStore(other, tmp_path)
    with pytest.raises(ValueError, match="other weights"), store.conversation("a"):
        pass
    assert store.live == []
    with pytest.raises(ValueError, match="discard_unreadable must be True or False"):
        store.conversation("a", discard_unreadable="no").__enter__()
    for options in ({"reset": True}, {"discard_unreadable": True}):
        with pytest.raises(ValueError, match="conversation_ids"), store.conversation("a", **options) as cache:
            fail_in_the_second_turn(other, cache)
        with pytest.raises(ValueError, match="other weights"), store.conversation("a"):  # it is still stored
            pass
    with store.conversation("a", discard_unreadable=True) as cache:
        score(other, cache, seed=0)
    assert store.live == ["a"]
    with store.conversation("a", discard_unreadable=True) as cache:  # which keeps a state that can be read
        assert cache.turns.tolist() == [1]
    with store.conversation("a", reset=True) as cache:
        assert cache.turns.tolist() == [0]
        score(other, cache, seed=0)
    assert store.live == ["a"]


def test_a_full_disk_keeps_conversations_in_memory(model, tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    store = ConversationStore(model, tmp_path, max_live=1)
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    for name in "ab":
        with store.conversation(name) as cache:
            score(model, cache, seed=0)
    assert store.live == ["a", "b"]
    assert "'a' stays in memory: writing it to disk failed" in caplog.text
    monkeypatch.undo()
    with store.conversation("a") as cache:
        assert cache.turns.tolist() == [1]
    assert store.live == ["a"]


def test_many_threads(model, tmp_path):
    """Turns of one conversation wait for each other; other conversations do not."""
    store, errors = ConversationStore(model, tmp_path, max_live=2), []
    names = [f"call {i % 5}" for i in range(40)]

    def work(name):
        try:
            with store.conversation(name) as cache:
                score(model, cache, seed=7)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    alone = ConversationMemoryCache(model.config)
    for _ in range(8):
        score(model, alone, seed=7)
    for name in {*names}:
        with store.conversation(name) as cache:
            assert_same_state(state_of(cache), state_of(alone))
    assert len(store.live) <= 2


def test_wrong_bounds(model):
    for wrong in ({"max_live": 0}, {"max_live": 1.5}, {"time_to_live": 0}, {"time_to_live": float("nan")}):
        with pytest.raises(ValueError, match="max_live must be at least 1 and time_to_live above 0"):
            ConversationStore(model, **wrong)


IN_ANOTHER_PROCESS = """
import os, sys
sys.path[:0] = {path!r}
from tiny_models import tiny_model, tiny_turns
from titans_mal import ConversationStore
try:
    store = ConversationStore(tiny_model(), {folder!r}, max_live=2)
except OSError as error:
    sys.exit(str(error))
for name in "abc":
    with store.conversation(name) as cache:
        tiny_model()(**tiny_turns(1), memory_cache=cache)
os._exit(0)  # as when it is killed
"""


def in_another_process(folder) -> subprocess.CompletedProcess:
    code = IN_ANOTHER_PROCESS.format(path=sys.path, folder=str(folder))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
def test_a_folder_belongs_to_one_process(model, tmp_path):
    store = ConversationStore(model, tmp_path)
    other = in_another_process(tmp_path)
    assert other.returncode == 1
    assert f"The states in {tmp_path} are in use" in other.stderr
    del store
    assert in_another_process(tmp_path).returncode == 0


def test_states_lost_by_a_killed_process_are_reported(model, tmp_path, caplog):
    """Of its conversations "a" went to disk, and "b" and "c" were in its memory."""
    assert in_another_process(tmp_path).returncode == 0
    store = ConversationStore(model, tmp_path)
    assert f"2 conversations of {tmp_path} were in the memory of a process that was killed" in caplog.text
    for name, turns, notes in (("a", 1, {}), ("b", 0, {"history_lost": True}), ("d", 0, {})):
        with store.conversation(name) as cache:
            assert (cache.turns.tolist(), cache.notes) == ([turns], notes)
            score(model, cache, seed=0)
    # A failed turn does not use the report up.
    with pytest.raises(ValueError, match="conversation_ids"), store.conversation("c") as cache:
        fail_in_the_second_turn(model, cache)
    assert store.names() == ["a", "b", "d"]
    with store.conversation("c") as cache:
        assert cache.notes == {"history_lost": True}
    # It is kept with the conversation until that is begun again.
    store.close()
    store = ConversationStore(model, tmp_path)
    with store.conversation("b") as cache:
        assert cache.notes == {"history_lost": True}
    for name in "bc":
        with store.conversation(name, reset=True) as cache:
            assert cache.notes == {}
        with store.conversation(name) as cache:
            assert cache.notes == {}


def test_a_second_store_of_a_folder_is_refused_until_the_first_is_closed(model, tmp_path, caplog):
    store = ConversationStore(model, tmp_path / "states")
    with store.conversation("a") as cache:
        score(model, cache, seed=0)
    for path in (tmp_path / "states", tmp_path / "states" / ".." / "states"):
        with pytest.raises(StatesInUse, match="in use by another process, or by another store in this process"):
            ConversationStore(model, path)
    store.close()
    with ConversationStore(model, tmp_path / "states").conversation("a") as cache:
        assert (cache.turns.tolist(), cache.notes) == ([1], {})
    assert "killed" not in caplog.text


def test_two_stores_cannot_share_one_object(model, tmp_path):
    states = StateFolder(tmp_path)
    store = ConversationStore(model, states)
    for given in (states, tmp_path):
        with pytest.raises(StatesInUse):
            ConversationStore(model, given)
    store.close()
    with pytest.raises(StatesInUse, match="is closed"):
        ConversationStore(model, states)


@pytest.mark.parametrize("folder", [None, "states"])
def test_a_fork_leaves_conversations_to_the_process_that_holds_them(model, tmp_path, folder):
    stores = [ConversationStore(model, folder and tmp_path / folder, max_live=1)]
    for name in "ab":  # "a" goes to disk
        with stores[0].conversation(name) as cache:
            score(model, cache, seed=0)

    def in_a_fork():
        store = stores.pop()
        for use in (
            lambda store: store.conversation("a").__enter__(),
            lambda store: store.conversation("new").__enter__(),
            lambda store: store.peek("a"),
            lambda store: store.names(),
            lambda store: store.live,
            lambda store: store.forget_expired(),
        ):
            with pytest.raises(RuntimeError, match="of which this one is a fork"):
                use(store)
        store.save()
        store.close()
        del store
        gc.collect()  # which would delete a temporary folder in its own process

    process = multiprocessing.get_context("fork").Process(target=in_a_fork)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    for name in "ab":
        with stores[0].conversation(name) as cache:
            assert (cache.turns.tolist(), cache.notes) == ([1], {})


def test_names_in_logs(model, tmp_path, monkeypatch, caplog):
    store = ConversationStore(model, tmp_path, max_live=1, log_name=lambda name: "hash")
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *args: (_ for _ in ()).throw(OSError(28, "full")))
    for name in ("Erika", "b"):
        with store.conversation(name) as cache:
            score(model, cache, seed=0)
    assert "conversation hash stays in memory" in caplog.text
    assert "Erika" not in caplog.text
