"""Many conversations at once: each as if it were alone, whatever happens to the others."""

import contextlib
import threading

import pytest
import torch
from tiny_models import tiny_model, tone

from titans_mal import ConversationAnalyzer, ConversationPool
from titans_mal.live.label_settings import LabelSettings


RATE = 16_000


def turns_of(call: int, count: int = 4):
    return [tone(0.4 + 0.07 * ((call + i) % 5), frequency=130 + 25 * call + 40 * i) for i in range(count)]


@pytest.fixture(scope="module")
def alone(model, processor):
    """The scored turns of each call by itself."""
    scored = {}
    for call in range(6):
        analyzer = ConversationAnalyzer(model, processor)
        scored[call] = [analyzer.push(turn, RATE, speaker="AB"[i % 2]) for i, turn in enumerate(turns_of(call))]
    return scored


def assert_same(turns, expected):
    assert len(turns) == len(expected)
    for turn, other in zip(turns, expected):
        assert (turn.turn_index, turn.speaker, turn.start, turn.end, turn.label) == (
            other.turn_index, other.speaker, other.start, other.end, other.label,
        )  # fmt: skip
        assert turn.scores == pytest.approx(other.scores, abs=1e-5)
        assert turn.surprise == pytest.approx(other.surprise, abs=1e-4)


@pytest.mark.parametrize("max_live", [1, 100])
def test_batched_calls_give_the_scores_of_single_calls(model, processor, alone, max_live):
    with ConversationPool(model, processor, max_batch=4, max_wait_ms=50, max_live=max_live) as pool:
        futures = {call: [] for call in alone}
        for place in range(4):
            for call in alone:
                turn = turns_of(call)[place]
                futures[call].append(pool.submit(f"call {call}", turn, RATE, speaker="AB"[place % 2]))
        for call, expected in alone.items():
            assert_same([future.result() for future in futures[call]], expected)
            assert_same(pool.history(f"call {call}"), expected)
        counters = pool.counters()
    assert counters["turns"] == 24
    assert counters["failures"] == counters["waiting"] == 0
    assert counters["live"] == min(max_live, 6)
    assert max(counters["batches"]) == 4
    assert sum(size * count for size, count in counters["batches"].items()) == 24
    assert 0 < counters["latency"]["p50"] <= counters["latency"]["p95"] <= counters["latency"]["p99"]


def test_many_threads_push(model, processor, alone):
    with ConversationPool(model, processor, max_batch=3) as pool:

        def talk(call):
            for i, turn in enumerate(turns_of(call)):
                pool.push(f"call {call}", turn, RATE, speaker="AB"[i % 2])

        threads = [threading.Thread(target=talk, args=(call,)) for call in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for call, expected in alone.items():
            assert_same(pool.history(f"call {call}"), expected)


def test_it_continues_after_a_stop(model, processor, alone, tmp_path):
    turns = turns_of(0)
    with ConversationPool(model, processor, states=tmp_path) as pool:
        for i in range(2):
            pool.push("call 0", turns[i], RATE, speaker="AB"[i])
        waiting = pool.submit("call 0", turns[2], RATE, speaker="A")
    assert waiting.done()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("call 0", turns[3], RATE)
    with ConversationPool(model, processor, states=tmp_path) as pool:
        pool.push("call 0", turns[3], RATE, speaker="B")
        assert_same(pool.history("call 0"), alone[0])
        # And from the start.
        assert_same([pool.push("call 0", turns[0], RATE, speaker="A", reset=True)], alone[0][:1])
        pool.forget("call 0")
        assert pool.history("call 0") == []


def test_a_turn_that_fails_fails_alone(processor):
    """One call has more speakers than its memory has room for; its batch is scored without it."""
    model = tiny_model({"scope": "speaker", "max_speakers": 2})
    with ConversationPool(model, processor, max_batch=3, max_wait_ms=1000) as pool:
        for speaker in "AB":
            for name in "abc":
                pool.submit(name, tone(0.5), RATE, speaker=speaker)
        second = {name: pool.submit(name, tone(0.6), RATE, speaker="AC"[name == "b"]) for name in "abc"}
        with pytest.raises(ValueError, match="max_speakers"):
            second["b"].result()
        assert [turn.turn_index for turn in (second["a"].result(), second["c"].result())] == [2, 2]
        assert len(pool.history("b")) == 2
        assert pool.push("b", tone(0.6), RATE, speaker="A").turn_index == 2
        assert pool.counters()["failures"] == 1


def test_bad_turns_are_rejected_before_they_wait(model, processor):
    with ConversationPool(model, processor) as pool:
        pool.push("a", tone(0.5), RATE, start=3.0)
        for audio, kwargs, message in (
            (torch.zeros(RATE).numpy(), {}, "silent"),
            (b"no audio", {}, "decoded"),
            (tone(0.5), {"start": -1.0}, "a turn must start at 0 s or later, got -1.0 s"),
        ):
            with pytest.raises(ValueError, match=message):
                pool.push("a", audio, None if isinstance(audio, bytes) else RATE, **kwargs)
        assert len(pool.history("a")) == 1
        assert pool.push("a", tone(0.5), RATE).start == 3.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reset": "no"}, "reset must be True or False"),
        ({"settings": LabelSettings(("no label",), 0.0)}, "no label"),
        ({"retry_key": "x" * 201}, "A retry key"),
        ({"speaker": "x" * 201}, "speaker"),
    ],
)
def test_options_are_checked_before_a_turn_waits(model, processor, given, message):
    with ConversationPool(model, processor) as pool:
        for submit in (pool.submit, pool.submit_split):
            with pytest.raises(ValueError, match=message):
                submit("call", tone(0.5), RATE, **({"speaker": "A"} | given))
        assert pool.counters()["failures"] == 0
        assert not pool.names()


def test_too_many_wait(model, processor):
    with ConversationPool(model, processor, max_batch=100, max_wait_ms=60_000, max_waiting=2) as pool:
        futures = [pool.submit(name, tone(0.5), RATE) for name in "ab"]
        with pytest.raises(RuntimeError, match="2 turns are waiting"):
            pool.submit("c", tone(0.5), RATE)
    assert all(future.done() for future in futures)


def test_a_turn_may_be_withdrawn(model, processor):
    with ConversationPool(model, processor, max_batch=100, max_wait_ms=300) as pool:
        turns = [pool.submit(name, tone(0.5), RATE) for name in "ab"]
        assert turns[0].cancel()
        assert turns[1].result().turn_index == 0
        assert not turns[1].cancel()
        assert pool.history("a") == []
        assert pool.push("a", tone(0.5), RATE).turn_index == 0


def test_looking_changes_nothing(model, processor, tmp_path):
    with ConversationPool(model, processor, max_live=1, states=tmp_path) as pool:
        pool.push("a", tone(0.5), RATE)
        for name in ("x", "y", "z"):
            assert pool.history(name) == []
            pool.forget(name)
        assert pool.counters()["live"] == 1
        pool.push("b", tone(0.5), RATE)
        assert len(pool.history("a")) == 1
    # After the end too.
    assert len(pool.history("a")) == len(pool.history("b")) == 1
    with pytest.raises(RuntimeError, match="closed"):
        pool.forget("a")
    with ConversationPool(model, processor, states=tmp_path) as pool:
        assert [pool.push(name, tone(0.5), RATE).turn_index for name in "ab"] == [1, 1]


class StatesInDict:
    """States that several pools share, as in Redis; `after_use` is called once, after a conversation was used."""

    is_shared = True

    def __init__(self):
        self.content, self.uses, self.after_use = {}, 0, lambda: None

    def read(self, name):
        return self.content.get(name)

    def write(self, name, content, seconds):
        self.content[name] = content

    def forget_old(self):
        pass

    @contextlib.contextmanager
    def lock(self, name):
        self.uses += 1
        yield
        then, self.after_use = self.after_use, lambda: None
        then()


@pytest.mark.parametrize(
    ("before", "reset"),
    [("nothing", False), ("nothing", True), ("a turn", False), ("a turn", True), ("a broken state", True)],
)
def test_two_servers_score_a_repeated_request_once(model, processor, before, reset):
    states, answers = StatesInDict(), []

    def send(server):
        answers.append(server.push("a", tone(0.5), RATE, retry_key="k", reset=reset))

    with (
        ConversationPool(model, processor, states=states) as first,
        ConversationPool(model, processor, states=states) as second,
    ):
        if before == "a turn":
            first.push("a", tone(0.6), RATE)
        elif before == "a broken state":
            states.content["a"] = b"broken"
        states.uses, states.after_use = 0, lambda: send(second)
        send(first)
        assert answers[0] == answers[1]
        assert states.uses == 2  # once by each server
        assert len(first.history("a")) == (2 if before == "a turn" and not reset else 1)


def test_a_request_with_a_key_does_not_replace_a_broken_state(model, processor):
    states = StatesInDict()
    states.content["a"] = b"broken"
    with ConversationPool(model, processor, states=states) as pool:
        for key in (None, "k"):
            with pytest.raises(ValueError, match="cannot be read"):
                pool.push("a", tone(0.5), RATE, retry_key=key)
    assert states.content == {"a": b"broken"}


def test_a_reset_needs_no_readable_state(model, processor, monkeypatch):
    """Also where the storage fails, unless a key has to be looked for in the state."""
    states = StatesInDict()

    def fail(name):
        raise OSError("the storage cannot be read")

    monkeypatch.setattr(states, "read", fail)
    with ConversationPool(model, processor, states=states) as pool:
        assert pool.push("a", tone(0.5), RATE, reset=True).turn_index == 0
        with pytest.raises(OSError, match="cannot be read"):
            pool.push("a", tone(0.5), RATE, reset=True, retry_key="k")


def test_a_reset_is_undone_with_its_turn(model, processor, monkeypatch):
    with ConversationPool(model, processor) as pool:
        before = [pool.push("a", tone(0.5), RATE, retry_key="k")]
        for key in (None, "other"):
            with monkeypatch.context() as patch:
                patch.setattr("titans_mal.live.pool_worker.remember", lambda *given: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    pool.push("a", tone(0.6), RATE, reset=True, retry_key=key)
            assert pool.history("a") == before
        assert pool.push("a", tone(0.5), RATE, reset=True, retry_key="k") == before[0]
        assert pool.push("a", tone(0.6), RATE, reset=True).turn_index == 0


def test_invalid_names(model, processor):
    with ConversationPool(model, processor) as pool:
        for name in (17, ["x"], None):
            with pytest.raises(TypeError, match="name must be a string"):
                pool.submit(name, tone(0.5), RATE)
        with pytest.raises(ValueError, match="speaker: the name must be a string"):
            pool.submit("a", tone(0.5), RATE, speaker=3)
        assert pool.push("a", tone(0.5), RATE).turn_index == 0


def test_nothing_stops_the_worker(model, processor, monkeypatch):
    with ConversationPool(model, processor) as pool:
        monkeypatch.setattr(pool._worker, "_score_together", lambda opened: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pool.push("a", tone(0.5), RATE)
        monkeypatch.undo()
        assert pool.push("a", tone(0.5), RATE).turn_index == 0


def test_wrong_bounds(model, processor):
    for wrong in ({"max_batch": 0}, {"max_waiting": 0}, {"max_wait_ms": -1}):
        with pytest.raises(ValueError, match="max_batch and max_waiting must be at least 1"):
            ConversationPool(model, processor, **wrong)
