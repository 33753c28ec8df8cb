"""Many live conversations at once, their turns in common batches: `ConversationPool`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..modeling.audio_loading import MAX_TURN_SECONDS
from ..modeling.conversation_store import ConversationStore, StateFolder, state_key
from ..modeling.deprecation import warn_renamed
from ..modeling.state_folder import SharedStates
from ..modeling.turn_rules import check_flag, check_text
from .label_settings import LabelSettings
from .pool_worker import PoolObserver, PoolWorker
from .remembered_speakers import RememberedSpeakers, check_person
from .turn_queue import PoolError, TurnFuture, TurnQueue, WaitingTurn
from .turns import LiveScorer, TurnEmotion, check_speaker, history_of, key_of_part


__all__ = ["ConversationPool", "PoolError", "PoolObserver"]


class ConversationPool:
    """Scores many conversations at once: waiting turns of different conversations are scored in one batch.

        with ConversationPool(model, processor) as pool:
            future = pool.submit("call 17", samples, 8000, speaker="A")
            future.result().label  # must not be called in a callback of a future, which runs in the scoring thread

    The turns of a conversation are scored strictly in the order of submission. A failed turn affects no other turn and
    leaves its conversation unchanged; a turn that is cancelled while it waits is not scored.

    Args:
        model: a model with memory; it is put into evaluation mode.
        processor: the processor of its host.
        max_batch: maximal number of turns in a batch.
        max_wait_ms: milliseconds that a turn waits for others to fill its batch.
        max_live: number of conversations in memory; others are stored in `states`, and restored bit-identically.
        states: a folder, or an object with the methods of `StateFolder`; None: a temporary folder.
        time_to_live: seconds after which an unused conversation is forgotten.
        max_waiting: maximal number of waiting turns; more are rejected.
        max_waiting_megabytes: maximal size of their audio, 0.064 MB per second; a single turn is always accepted.
        labels, unknown_below: as for `ConversationAnalyzer`.
        log_name: returns the name under which a conversation appears in logs.
        remember_speakers: key of the hash under which the memory of consenting speakers is stored for their next
            conversations (see `RememberedSpeakers`); None: a memory ends with its conversation.

    Raises:
        StatesInUse: if another process, or another pool that is not closed, uses the folder.
        ValueError: for a bound that is not above 0, and as `ConversationAnalyzer` and `RememberedSpeakers`.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        max_batch: int = 16,
        max_wait_ms: float = 5.0,
        max_live: int = 256,
        states: StateFolder | SharedStates | str | Path | None = None,
        time_to_live: float = 3600.0,
        max_waiting: int = 1024,
        max_waiting_megabytes: float = 512.0,
        labels: Sequence[str] | None = None,
        unknown_below: float = 0.0,
        log_name: Callable[[str], str] = repr,
        remember_speakers: str | None = None,
    ):
        self._queue = TurnQueue(
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_waiting=max_waiting,
            max_waiting_megabytes=max_waiting_megabytes,
        )
        self.label_settings = LabelSettings(labels, unknown_below)
        self._scorer = LiveScorer(model, processor, self.label_settings)
        self._store = ConversationStore(model, states, max_live=max_live, time_to_live=time_to_live, log_name=log_name)
        self._remembered = (
            None
            if remember_speakers is None
            else RememberedSpeakers(model, self._store.part("persons"), remember_speakers)
        )
        self._worker = PoolWorker(self._queue, self._scorer, self._store, self._remembered)

    def __enter__(self) -> ConversationPool:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    @property
    def is_closed(self) -> bool:
        """Whether the pool is closed."""
        return self._queue.is_closed or not self._worker.is_alive()

    @property
    def min_turn_seconds(self) -> float:
        """The shortest turn that the model processes, in seconds; shorter ones are padded with silence."""
        return self._scorer.min_seconds

    @property
    def labels(self) -> list[str]:
        """The labels of the model; empty without any."""
        return self._scorer.labels

    @property
    def emotion_dimensions(self) -> list[str]:
        """The emotion dimensions of the model, such as valence; empty without any."""
        return self._scorer.dimensions

    def check(self, settings: LabelSettings) -> None:
        """Raise ValueError for settings that do not fit the model."""
        self._scorer.check(settings)

    def observe(self, observer: PoolObserver) -> None:
        """Report events to an observer from now on."""
        self._worker.observe(observer)

    def submit(
        self,
        conversation: str,
        audio,
        sampling_rate: int | None = None,
        *,
        speaker: str | None = None,
        start: float | None = None,
        reset: bool = False,
        anew: bool | None = None,
        max_seconds: float = MAX_TURN_SECONDS,
        retry_key: str | None = None,
        settings: LabelSettings | None = None,
        stages: Mapping[str, float] | None = None,
        person: str | None = None,
    ) -> TurnFuture:
        """Queue a turn, which is scored when its batch is full or has waited long enough.

        Args:
            conversation: its name; a new name starts a conversation.
            audio, sampling_rate, speaker, start: as for `ConversationAnalyzer.push`.
            reset: start the conversation from scratch.
            anew: deprecated name of `reset`.
            max_seconds: maximal length of the turn.
            retry_key: of this turn; if one of the last 32 requests with a key has the same key, its result is returned
                again, and nothing is written. A turn of another length with the same key fails.
            settings: settings of this turn; None: those of the pool.
            stages: seconds already spent on the turn, by stage.
            person: ID of the speaker in all conversations; giving it states the speaker's consent to be remembered.

        Raises:
            AudioTooLong: for a longer turn.
            ValueError: for other unusable audio, an invalid speaker or person, or unknown labels.
            TypeError: for a conversation whose name is not a string.
            PoolError: if too many turns wait, the pool is closed or its worker has ended, or this process is a fork of
                the one that created the pool.
        """
        if anew is not None:
            warn_renamed("anew", "reset")
            reset = anew
        turn = self._waiting(
            conversation,
            audio,
            sampling_rate,
            max_seconds=max_seconds,
            settings=settings,
            stages=stages,
            speaker=speaker,
            start=start,
            reset=reset,
            retry_key=retry_key,
            person=person,
        )
        self._put([turn])
        return turn.answer

    def submit_split(self, conversation: str, audio, sampling_rate: int | None = None, **kwargs) -> list[TurnFuture]:
        """Queue a turn as several, cut at its pauses, if it is longer than the host's window.

        Arguments and errors as `submit`; either all pieces are queued, or none. Silent pieces are left out.
        """
        whole = self._waiting(conversation, audio, sampling_rate, **kwargs)
        rate, pieces, last, turns = self._scorer.sampling_rate, self._scorer.pieces(whole.waveform), 0, []
        for number, (first, end) in enumerate(pieces):
            turn = replace(
                whole,
                waveform=whole.waveform[first:end],
                start=None if whole.start is None else whole.start + first / rate,
                gap=(first - last) / rate,
                reset=whole.reset and not number,
                retry_key=whole.retry_key if len(pieces) == 1 else key_of_part(whole.retry_key, number),
                answer=TurnFuture(),
            )
            turn.answer.stages.update(whole.answer.stages)
            turns.append(turn)
            last = end
        self._put(turns)
        return [turn.answer for turn in turns]

    def _waiting(
        self,
        conversation: str,
        audio,
        sampling_rate: int | None,
        *,
        max_seconds: float = MAX_TURN_SECONDS,
        settings: LabelSettings | None = None,
        stages: Mapping[str, float] | None = None,
        **fields: Any,
    ) -> WaitingTurn:
        """A turn that is checked and loaded, and not queued; errors as `submit`, `fields` are of `WaitingTurn`."""
        turn = WaitingTurn(conversation, settings or self.label_settings, time.perf_counter(), **fields)
        self._check_turn(turn)
        if self.is_closed:
            raise PoolError("The pool is closed.")
        turn.waveform = self._scorer.load(audio, sampling_rate, max_seconds=max_seconds)
        turn.queued = time.perf_counter()
        turn.answer.stages.update(stages or {}, decode=turn.queued - turn.began)
        return turn

    def _check_turn(self, turn: WaitingTurn) -> None:
        state_key(turn.conversation)
        check_text(turn.conversation, "A conversation")
        check_speaker(turn.speaker)
        check_flag(turn.reset, "reset")
        if turn.person is not None:
            check_person(turn.person)
            self._remembering()
        if turn.retry_key is not None:
            check_text(turn.retry_key, "A retry key")
        self._scorer.check(turn.settings)

    def _put(self, turns: Sequence[WaitingTurn]) -> None:
        """Queue turns, all or none of them; errors as `submit`."""
        if self.is_closed:
            raise PoolError("The pool is closed.")
        waiting = self._queue.put(*turns)
        self._worker.report(lambda observer: observer.queued(waiting))

    def push(self, conversation: str, audio, sampling_rate: int | None = None, **kwargs) -> TurnEmotion:
        """Submit a turn and wait for its result; arguments and errors as `submit`."""
        return self.submit(conversation, audio, sampling_rate, **kwargs).result()

    def history(self, conversation: str) -> list[TurnEmotion]:
        """The turns of a conversation so far; empty if it is unknown."""
        cache = self._store.peek(conversation)
        return [] if cache is None else history_of(cache)

    def names(self) -> list[str]:
        """Names of all stored conversations, in alphabetical order."""
        return self._store.names()

    def forget_expired(self) -> None:
        """Forget expired conversations and persons, even if no turns arrive."""
        self._store.forget_expired()
        if self._remembered is not None:
            self._remembered.forget_expired()

    def forget_person(self, person: str) -> None:
        """Delete the remembered memory of a person; running conversations keep their states.

        Raises:
            PoolError: if the pool is closed.
            ValueError: if the pool remembers nobody.
        """
        if self._queue.is_closed:
            raise PoolError("The pool is closed.")
        self._remembering().forget(person)

    def forget(self, conversation: str) -> None:
        """Forget a conversation; turns that wait are scored as those of a new one.

        Raises:
            PoolError: if the pool is closed.
        """
        if self._queue.is_closed:
            raise PoolError("The pool is closed.")
        with self._store.conversation(conversation, reset=True):
            pass

    def counters(self) -> dict[str, Any]:
        """Statistics of the pool.

        Returns:
            `turns` and `failures` so far, `waiting` now, `live` conversations, `batches` (number of batches by size),
            `latency` (seconds from submission to answer; the 50th, 95th and 99th percentile of the last thousand
            turns; None before the first), and the number of states that were `evicted` to storage, `restored` from it,
            `expired`, or `lost` with a killed process.
        """
        return {
            **self._worker.counters(),
            "waiting": len(self._queue),
            "live": len(self._store.live),
            **{name: self._store.counts[name] for name in ("evicted", "restored", "expired", "lost")},
        }

    def close(self) -> None:
        """Score all waiting turns, write all conversations to disk, and let another pool use their folder."""
        self._queue.close()
        self._worker.join()
        if self._remembered is not None:
            self._remembered.close()
        self._store.close()

    def _remembering(self) -> RememberedSpeakers:
        if self._remembered is None:
            raise ValueError(
                "person is not allowed, since this pool does not remember speakers: set remember_speakers."
            )
        return self._remembered
