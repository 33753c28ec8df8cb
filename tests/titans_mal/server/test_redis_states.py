"""Several servers of the same conversations, over a real Redis server on loopback."""

import socket
import subprocess
import sys
import threading
import time

import pytest
from tiny_models import tiny_processor, tone

from titans_mal import ConversationAnalyzer, ConversationPool, ConversationStore
from titans_mal.server.redis_states import RedisStates


RATE = 16_000
RECORDINGS = [tone(0.4 + 0.05 * i, frequency=150 + 30 * i) for i in range(6)]


def test_servers_share_conversations(model, url):
    """Turn by turn another server, and each call as if one had scored it all."""
    processor = tiny_processor()
    pools = [ConversationPool(model, processor, states=RedisStates(url, prefix="shared")) for _ in range(3)]
    alone = {}
    for call in range(3):
        analyzer = ConversationAnalyzer(model, processor)
        alone[call] = [analyzer.push(audio, RATE) for audio in RECORDINGS[call:]]

    def talk(call):
        for place, audio in enumerate(RECORDINGS[call:]):
            pools[(call + place) % 3].push(f"call {call}", audio, RATE)

    threads = [threading.Thread(target=talk, args=(call,)) for call in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for call, expected in alone.items():
        scored = pools[0].history(f"call {call}")
        assert [(turn.turn_index, turn.start) for turn in scored] == [
            (turn.turn_index, turn.start) for turn in expected
        ]
        for turn, other in zip(scored, expected):
            assert turn.scores == pytest.approx(other.scores, abs=1e-5)
    assert pools[1].counters()["live"] == 0
    pools[2].forget("call 0")
    assert pools[0].history("call 0") == []
    for pool in pools:
        pool.close()


def test_a_conversation_is_used_by_one_server_at_a_time(model, url):
    stores = [ConversationStore(model, RedisStates(url, prefix="locked", lock_seconds=0.5)) for _ in range(2)]
    with stores[0].conversation("a"), pytest.raises(OSError, match="in use elsewhere"), stores[1].conversation("a"):
        pass
    with stores[1].conversation("a") as cache:
        assert cache.turns.tolist() == [0]


def test_a_busy_call_waits_while_others_are_scored(model, url):
    """As a server leaves a lock that was killed: until it runs out."""
    states = RedisStates(url, prefix="busy", lock_seconds=1.5)
    with ConversationPool(model, tiny_processor(), states=states) as pool:
        other = RedisStates(url, prefix="busy", lock_seconds=1.5)
        began = time.monotonic()
        other._redis.set(f"{other._key('m')}:lock", "killed", px=1500)
        waits = pool.submit("m", RECORDINGS[0], RATE)
        assert pool.push("other", RECORDINGS[0], RATE).turn_index == 0
        assert time.monotonic() - began < 1.4
        assert not waits.done()
        assert waits.result(timeout=30).turn_index == 0


@pytest.mark.slow
def test_the_lock_of_a_killed_server_runs_out(model, url):
    """It was renewed for longer than it lives, and its turn would have taken a minute."""
    code = (
        "import time; from titans_mal.server.redis_states import RedisStates\n"
        f"with RedisStates({url!r}, prefix='killed', lock_seconds=1.0).lock('a'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner,
        ConversationPool(model, tiny_processor(), states=RedisStates(url, prefix="killed")) as pool,
    ):
        assert owner.stdout.readline() == "held\n"
        waits = pool.submit("a", RECORDINGS[0], RATE)
        with pytest.raises(TimeoutError):
            waits.result(timeout=2.0)
        owner.kill()
        assert waits.result(timeout=20).turn_index == 0


def test_a_turn_may_take_longer_than_a_lock_lives(model, url):
    slow, other = (ConversationStore(model, RedisStates(url, prefix="renewed", lock_seconds=0.4)) for _ in range(2))
    with slow.conversation("a") as cache:
        cache.notes = {"from": "slow"}
        time.sleep(1.2)
        with pytest.raises(OSError, match="in use elsewhere"), other.conversation("a"):
            pass
    with other.conversation("a") as cache:
        assert cache.notes == {"from": "slow"}


def test_a_lock_is_not_renewed_for_ever(model, url):
    states = RedisStates(url, prefix="hangs", lock_seconds=0.3, most_seconds=0.3)
    other = ConversationStore(model, RedisStates(url, prefix="hangs"))

    def hang():
        with ConversationStore(model, states).conversation("a") as cache:
            cache.notes = {"from": "hangs"}
            time.sleep(1.5)
            with other.conversation("a") as overtaking:
                overtaking.notes = {"from": "other"}

    with pytest.raises(OSError, match="Redis does not answer"):
        hang()
    assert other.peek("a").notes == {"from": "other"}


def test_an_expired_lock_writes_nothing(model, url, monkeypatch):
    """As where the server stood still, so that it renewed nothing."""
    monkeypatch.setattr(RedisStates, "_renew", lambda self: None)
    slow, quick = (ConversationStore(model, RedisStates(url, prefix="slow", lock_seconds=0.3)) for _ in range(2))

    def overtaken():
        with slow.conversation("a") as cache:
            cache.notes = {"from": "slow"}
            time.sleep(0.5)
            with quick.conversation("a") as other:
                other.notes = {"from": "quick"}

    with pytest.raises(OSError, match="Redis does not answer"):
        overtaken()
    assert quick.peek("a").notes == {"from": "quick"}


def test_redis_forgets_by_itself(model, url):
    store = ConversationStore(model, RedisStates(url, prefix="short"), time_to_live=0.3)
    with store.conversation("a") as cache:
        cache.notes = {"x": 1}
    with store.conversation("a") as cache:
        assert cache.notes == {"x": 1}
    time.sleep(0.5)
    with store.conversation("a") as cache:
        assert cache.notes == {}


def test_clocks_of_servers_may_differ(url, monkeypatch):
    states = [RedisStates(url, prefix="clocks") for _ in range(2)]
    states[0].write("a", b"state", 60.0)
    monkeypatch.setattr("time.time", lambda: 4e9)
    states[1].write("b", b"state", 60.0)
    assert states[1].names() == ["a", "b"]
    # Neither a cool-down below a millisecond nor one without an end is an error.
    assert states[1].claim("a", "rule", 1e-9)
    assert states[1].claim("b", "rule", 1e300)
    assert not states[0].claim("b", "rule", 1e300)


def test_a_redis_that_stands_still_is_an_error(model):
    """It takes connections and answers nothing, as where it was stopped or the network swallows all."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="Redis does not answer"):
        RedisStates(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", lock_seconds=0.1)


def test_without_redis(model, url, monkeypatch):
    with pytest.raises(OSError, match="Redis does not answer"):
        RedisStates("redis://127.0.0.1:1/0")
    states = RedisStates(url, prefix="gone")
    pool = ConversationPool(model, tiny_processor(), states=states)
    pool.push("a", RECORDINGS[0], RATE)

    def gone(*args, **kwargs):
        import redis

        raise redis.ConnectionError("gone")

    monkeypatch.setattr(states._redis, "set", gone)
    with pytest.raises(OSError, match="Redis does not answer: gone"):
        pool.push("a", RECORDINGS[1], RATE)
    monkeypatch.undo()
    # What could not be written was not said.
    assert len(pool.history("a")) == 1
    assert pool.push("a", RECORDINGS[1], RATE).turn_index == 1
    pool.close()
