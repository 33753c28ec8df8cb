"""A speaker's memory in later conversations: `RememberedSpeakers`."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from typing import Any

from ..modeling.conversation_memory_cache import ConversationMemoryCache
from ..modeling.conversation_store import ConversationStore
from ..modeling.speaker_streams import add_speaker_stream, speaker_stream
from ..modeling.turn_rules import check_text, is_named, speaker_number


# Key in the notes of a conversation: for each speaker that is a person, the person's hash and stream.
_PERSONS = "persons"
# Key in the notes of a conversation: how many turns its streams had when they were added.
_EARLIER_TURNS = "earlier_turns"
# Key in the notes of a person: identifies the stream, from before its first turn until it is forgotten.
_STREAM = "stream"


def turns_here(cache: ConversationMemoryCache) -> int:
    """Number of turns of a conversation, without those of its speakers in earlier ones."""
    return int(cache.turns.sum()) - cache.notes.get(_EARLIER_TURNS, 0)


def check_person(person: str) -> None:
    """Check the name of a person.

    Raises:
        ValueError: for a name that is not valid (see `check_text`), or a placeholder that several people could share.
    """
    check_text(person, "A person")
    if not is_named(person):
        raise ValueError(f"A person needs an ID that identifies them, got {person!r}.")


class RememberedSpeakers:
    """Stores the memory of consenting speakers, so that their next conversation continues it.

    A turn with a `person` states the consent of its speaker, from the speaker's first turn of a conversation on. After
    each such turn, only the stream of that speaker is stored; if a person talks in several conversations at once, the
    stream of the last turn is kept. A turn without `person` ends the consent in its conversation. After `forget`,
    running conversations do not store earlier writes again. Until the first turn of a person is scored, only a random
    ID is stored.

    Persons are stored under a hash of their names, and expire like conversations.

    Args:
        model: a model with a memory for each speaker.
        store: stores the persons' streams.
        key: key of the hash; the same for all servers that share the states. With another key, nobody is found.

    Raises:
        ValueError: for an empty key, or a memory that the speakers of a conversation share, so that it holds the
            others' voices, too.
    """

    def __init__(self, model: Any, store: ConversationStore, key: str):
        if not key:
            raise ValueError("The key of remembered speakers must not be empty.")
        if model.config.memory_config.scope != "speaker":
            raise ValueError(
                "Remembering speakers needs a model with memory_config.scope='speaker'; in this model, all "
                "speakers of a conversation share one memory."
            )
        self._model, self._store, self._key = model, store, key.encode()
        self.close, self.forget_expired = store.close, store.forget_expired

    def begin(self, cache: ConversationMemoryCache, speaker: str | None, person: str | None) -> None:
        """Before a turn: let a person who is new to a conversation continue the stored stream.

        Args:
            cache: cache of the conversation.
            speaker: speaker of the turn.
            person: ID of the person; None: this speaker's memory is no longer stored.

        Raises:
            ValueError: for a person without a speaker, one named only after the speaker's first turn or instead of
                another one, or a stored stream that is broken or of another model.
            OSError: if streams cannot be read or stored; ConversationInUse if another server is using the person's
                stream.
        """
        known = cache.notes.get(_PERSONS, {})
        if person is None:
            if speaker in known:
                cache.notes[_PERSONS] = {name: link for name, link in known.items() if name != speaker}
            return
        if speaker is None:
            raise ValueError("A turn with a person also needs a speaker, the person's name in the conversation.")
        hashed, number = self._hash(person), speaker_number(speaker)
        if speaker in known:
            if known[speaker]["person"] != hashed:
                raise ValueError(
                    f"The speaker {speaker!r} was given as a different person earlier in this conversation."
                )
            return
        if number in cache.speaker_ids[0]:
            raise ValueError(
                f"A person must be given from the speaker's first turn on, but earlier turns of {speaker!r} have none."
            )
        stored = self._begun(hashed)
        if bool(stored.turns.any()):
            add_speaker_stream(cache, number, stored)
            cache.notes[_EARLIER_TURNS] = cache.notes.get(_EARLIER_TURNS, 0) + int(stored.turns.sum())
        cache.notes[_PERSONS] = {**known, speaker: {"person": hashed, "stream": stored.notes[_STREAM]}}

    def end(self, cache: ConversationMemoryCache, speaker: str | None) -> None:
        """After a turn: store the stream of its speaker, if that is a person who was not forgotten since `begin`.

        Raises:
            OSError: if it cannot be stored.
        """
        link = cache.notes.get(_PERSONS, {}).get(speaker)
        if link is None:
            return
        with self._store.conversation(link["person"]) as stored:
            if stored.notes.get(_STREAM) == link["stream"]:  # not forgotten
                stored.adopt(speaker_stream(cache, speaker_number(str(speaker))))
                stored.notes = {_STREAM: link["stream"]}

    def forget(self, person: str) -> None:
        """Delete what is stored of a person, under any name.

        Conversations in which the person talks keep their own states until they are forgotten.
        """
        with self._store.conversation(self._hash(person), reset=True):
            pass

    def _begun(self, hashed: str) -> ConversationMemoryCache:
        """A copy of a person's stored stream, which has its ID from now on.

        The store may have it in memory alone until the turn ends.
        """
        try:
            with self._store.conversation(hashed) as stored:
                stored.notes = {_STREAM: uuid.uuid4().hex, **stored.notes}
                return stored.snapshot()
        except ValueError as error:
            raise ValueError(
                "The stored memory of this person is broken or was written by another model: delete it, or do "
                "not pass person."
            ) from error

    def _hash(self, person: str) -> str:
        check_person(person)
        return hmac.new(self._key, person.encode(), hashlib.sha256).hexdigest()
