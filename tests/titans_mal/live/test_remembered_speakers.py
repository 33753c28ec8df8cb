"""A speaker's memory in the next conversation: whose it is, that nothing else is kept, and how it ends."""

import contextlib
import threading
import time

import pytest
from tiny_models import tiny_model, tiny_processor, tone

from titans_mal.live import ConversationPool, PoolObserver
from titans_mal.live.remembered_speakers import RememberedSpeakers
from titans_mal.modeling.conversation_store import ConversationInUse


RATE = 16_000
RECORDINGS = [tone(0.3 + 0.05 * place, frequency=150 + 40 * place) for place in range(4)]
BY_SPEAKER = {"scope": "speaker", "max_speakers": 2}


@contextlib.contextmanager
def scoring_waits(pool):
    """Until the block ends, the pool scores another turn, so that the turns of the block become one batch."""
    begun, ended = threading.Event(), threading.Event()

    class Waiting(PoolObserver):
        def batch(self, turns):
            begun.set()
            ended.wait(30)

    pool.observe(Waiting())
    other = pool.submit("another conversation", RECORDINGS[0], RATE, speaker="other")
    assert begun.wait(30)
    try:
        yield
    finally:
        ended.set()
        other.result()


@pytest.fixture(scope="module")
def model():
    return tiny_model(BY_SPEAKER)


@pytest.fixture
def pool(model, tmp_path):
    with ConversationPool(model, tiny_processor(), states=tmp_path, remember_speakers="key") as pool:
        yield pool


def say(pool, conversation, place, speaker="Erika", person="customer 7", **kwargs):
    return pool.push(conversation, RECORDINGS[place], RATE, speaker=speaker, person=person, **kwargs)


def scores_of(pool, conversation, places, **kwargs):
    """Of turns without any memory of earlier conversations."""
    return [say(pool, conversation, place, person=None, **kwargs).scores for place in places][-1]


def persons_in(folder):
    return [path for path in folder.joinpath("persons").rglob("*") if path.is_file()]


def test_the_next_conversation_continues_the_memory_of_the_speaker_alone(pool):
    say(pool, "first", 0)
    say(pool, "first", 1, speaker="agent", person=None)
    say(pool, "first", 2)
    second = say(pool, "second", 3, speaker="caller")  # another name in another conversation
    # As in one conversation without interruption, in which nobody else talked.
    assert second.scores == pytest.approx(scores_of(pool, "whole", (0, 2, 3)), abs=1e-6)
    assert second.scores != pytest.approx(scores_of(pool, "fresh", (3,)), abs=1e-4)
    assert (second.turn_index, second.start) == (0, 0.0)
    assert say(pool, "second", 0, speaker="caller").turn_index == 1
    # An agent in the second conversation has a stream of his own.
    agent = say(pool, "second", 1, speaker="agent", person=None)
    assert agent.scores == pytest.approx(scores_of(pool, "agent", (1,)), abs=1e-6)
    # What the second one added is there in the third one.
    third = say(pool, "third", 1)
    assert third.scores == pytest.approx(scores_of(pool, "all", (0, 2, 3, 0, 1)), abs=1e-6)


def test_a_state_survives_the_server_and_its_memory(model, tmp_path):
    for place in range(2):
        with ConversationPool(model, tiny_processor(), states=tmp_path, max_live=1, remember_speakers="key") as pool:
            say(pool, f"call {place}", place)
            say(pool, f"other {place}", place, person="customer 8")
            scores = say(pool, f"last {place}", 2).scores
    with ConversationPool(model, tiny_processor()) as alone:
        assert scores == pytest.approx(scores_of(alone, "whole", (0, 2, 1, 2)), abs=1e-6)
    # With another key nobody is found.
    with ConversationPool(model, tiny_processor(), states=tmp_path, remember_speakers="other") as pool:
        assert say(pool, "new", 2).scores == pytest.approx(scores_of(pool, "fresh", (2,)), abs=1e-6)


def test_without_consent_nothing_is_kept(model, tmp_path):
    pool = ConversationPool(model, tiny_processor(), states=tmp_path, remember_speakers="key")
    say(pool, "a", 0, person=None)
    with pytest.raises(ValueError, match="from the speaker's first turn on"):
        say(pool, "a", 1)
    pool.forget("a")
    pool.close()
    assert persons_in(tmp_path) == []

    # Who stops to agree within a conversation is not written any more.
    pool = ConversationPool(model, tiny_processor(), states=tmp_path, remember_speakers="key")
    say(pool, "b", 0)
    say(pool, "b", 1, person=None)
    with pytest.raises(ValueError, match="earlier turns of 'Erika' have none"):
        say(pool, "b", 2)
    assert say(pool, "c", 2).scores == pytest.approx(scores_of(pool, "whole", (0, 2)), abs=1e-6)
    with pytest.raises(ValueError, match="was given as a different person"):
        say(pool, "c", 1, person="customer 8")
    pool.close()
    assert not any(b"customer" in path.read_bytes() or b"Erika" in path.read_bytes() for path in persons_in(tmp_path))


def test_a_deleted_person_does_not_come_back(pool, tmp_path):
    say(pool, "going on", 0)
    pool.forget_person("customer 7")
    assert persons_in(tmp_path) == []
    say(pool, "going on", 1)
    assert persons_in(tmp_path) == []
    # A new conversation is a new consent; the old one does not write into it.
    say(pool, "new", 2)
    say(pool, "going on", 3)
    assert say(pool, "next", 3).scores == pytest.approx(scores_of(pool, "whole", (2, 3)), abs=1e-6)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_person_who_is_deleted_during_the_first_turn_does_not_come_back(pool, tmp_path, is_known):
    class Deleting(PoolObserver):
        def batch(self, turns):
            if not done:
                done.append(pool.forget_person("customer 7"))

    if is_known:
        say(pool, "earlier", 0)
    done = []
    pool.observe(Deleting())
    say(pool, "going on", 1)
    assert len(done) == 1
    assert persons_in(tmp_path) == []
    say(pool, "going on", 2)
    assert persons_in(tmp_path) == []
    say(pool, "new", 2)
    say(pool, "going on", 3)
    assert say(pool, "next", 3).scores == pytest.approx(scores_of(pool, "whole", (2, 3)), abs=1e-6)


def test_a_failed_first_turn_stores_no_memory(pool, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("titans_mal.live.pool_worker.remember", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            say(pool, "a", 0)
    assert say(pool, "b", 1).scores == pytest.approx(scores_of(pool, "alone", (1,)), abs=1e-6)
    pool.forget_person("customer 7")
    assert persons_in(tmp_path) == []


def test_a_turn_waits_for_a_person_in_use_by_another_server(pool, monkeypatch):
    begin, tries = RememberedSpeakers.begin, []

    def busy_at_first(self, *given):
        tries.append(given)
        if len(tries) == 1:
            raise ConversationInUse("in use elsewhere")
        begin(self, *given)

    monkeypatch.setattr(RememberedSpeakers, "begin", busy_at_first)
    assert say(pool, "a", 0).turn_index == 0
    assert (len(tries), len(pool.history("a"))) == (2, 1)


def test_of_two_conversations_at_once_the_last_turn_counts(pool):
    say(pool, "before", 0)
    for conversation, place in (("a", 1), ("b", 2), ("a", 3)):
        say(pool, conversation, place)
    assert say(pool, "after", 1).scores == pytest.approx(scores_of(pool, "whole", (0, 1, 3, 1)), abs=1e-6)
    # In one batch, and of a person that nobody knows yet.
    with scoring_waits(pool):
        futures = [
            pool.submit(name, RECORDINGS[2], RATE, speaker="E", person="customer 9", start=1.0) for name in ("c", "d")
        ]
    assert [future.result().turn_index for future in futures] == [0, 0]
    assert say(pool, "e", 3, person="customer 9").scores == pytest.approx(scores_of(pool, "one", (2, 3)), abs=1e-6)


def test_a_failed_turn_changes_no_memory(pool, monkeypatch):
    say(pool, "a", 0)
    with monkeypatch.context() as patch:
        patch.setattr("titans_mal.live.pool_worker.remember", lambda *given: 1 / 0)
        for name in ("a", "b"):
            with pytest.raises(ZeroDivisionError):
                say(pool, name, 1)
    assert pool.history("b") == []
    assert say(pool, "b", 2).scores == pytest.approx(scores_of(pool, "whole", (0, 2)), abs=1e-6)
    assert say(pool, "b", 3, reset=True).scores == pytest.approx(scores_of(pool, "all", (0, 2, 3)), abs=1e-6)


def test_persons_expire(model, tmp_path):
    with ConversationPool(model, tiny_processor(), states=tmp_path, time_to_live=0.2, remember_speakers="key") as pool:
        say(pool, "a", 0)
        assert persons_in(tmp_path) != []
        time.sleep(0.3)
        pool.forget_expired()
        assert persons_in(tmp_path) == []


def test_a_memory_of_another_model_is_rejected(model, tmp_path):
    with ConversationPool(model, tiny_processor(), states=tmp_path, remember_speakers="key") as pool:
        say(pool, "a", 0)
        pool.forget("a")
    other = tiny_model(BY_SPEAKER, seed=1)
    with ConversationPool(other, tiny_processor(), states=tmp_path, remember_speakers="key") as pool:
        with pytest.raises(
            ValueError, match="is broken or was written by another model: delete it, or do not pass person"
        ):
            say(pool, "b", 0)
        assert pool.history("b") == []
        pool.forget_person("customer 7")
        assert say(pool, "b", 0).turn_index == 0


def test_where_nobody_is_remembered(model):
    with ConversationPool(model, tiny_processor()) as pool:
        with pytest.raises(ValueError, match="does not remember speakers"):
            say(pool, "a", 0)
        with pytest.raises(ValueError, match="does not remember speakers"):
            pool.forget_person("customer 7")
    with pytest.raises(ValueError, match="all speakers of a conversation share one memory"):
        ConversationPool(tiny_model(), tiny_processor(), remember_speakers="key")
    with pytest.raises(ValueError, match="must not be empty"):
        ConversationPool(model, tiny_processor(), remember_speakers="")


def test_a_person_has_a_name_and_a_speaker(pool):
    for person in ("", " ", "unknown", "x" * 201, "\ud800", 5):
        with pytest.raises(ValueError, match="A person"):
            say(pool, "a", 0, person=person)
    with pytest.raises(ValueError, match="speaker"):
        say(pool, "a", 0, speaker=None)
