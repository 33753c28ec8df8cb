"""Turns that are sent as files: a single turn, a long one in pieces, or those of one speaker per channel."""

from __future__ import annotations

import asyncio

from fastapi.concurrency import run_in_threadpool

from ..data.audio import AudioTooLong
from ..live.channels import channel_turns
from ..live.pool import PoolError
from ..live.turn_queue import TurnFuture
from ..live.turns import RATE, key_of_part
from .answers import TurnAnswer, TurnError, TurnList, turn_answer
from .errors import Refused, reason_of
from .queries import TurnQuery
from .service import Service


async def add_turn(
    service: Service, name: str, body: bytes, query: TurnQuery, retry_key: str | None
) -> TurnAnswer | TurnList:
    """Score a file as the next turn, or with `split_long` as the next turns.

    Raises:
        Refused: for a turn that is too long, or takes too long.
        ValueError, OSError, PoolError: as `ConversationPool.submit` and what it answers.
    """
    try:
        futures = await _submitted(
            service,
            name,
            query,
            body,
            speaker=query.speaker,
            person=query.channel_persons[0],
            start=query.start,
            reset=query.is_reset,
            max_seconds=service.settings.max_seconds,
            retry_key=retry_key,
        )
    except AudioTooLong:
        raise _too_long(service) from None
    if not query.split_long:
        return await _answer(service, name, futures[0], query)
    answers = TurnList(name, [])
    for place, future in enumerate(futures):
        try:
            answers.turns.append(await _answer(service, name, future, query))
        except (ValueError, OSError, PoolError, Refused) as error:
            if not answers.turns and place == len(futures) - 1:
                raise  # no piece was scored
            service.metrics.refused(reason_of(error))
            answers.errors.append(TurnError(f"A piece of the turn: {getattr(error, 'detail', error)}"))
    return answers


async def add_channels(service: Service, name: str, body: bytes, query: TurnQuery, retry_key: str | None) -> TurnList:
    """Score the turns on each channel of a file, in the order of their ends.

    Unusable turns are reported as errors, and the others are scored; other errors as in `add_turn`.
    """
    speakers = query.channel_speakers
    try:
        turns = await run_in_threadpool(channel_turns, body, speakers, max_seconds=service.settings.max_seconds)
    except AudioTooLong:
        raise _too_long(service) from None
    offset = query.start if query.start is not None else await _end_of(service, name, is_reset=query.is_reset)
    answers = TurnList(name, [])
    for place, (channel, turn) in enumerate(turns):
        start = offset + turn.start
        try:
            futures = await _submitted(
                service,
                name,
                query,
                turn.waveform,
                RATE,
                speaker=speakers[channel],
                person=query.channel_persons[channel],
                start=start,
                reset=query.is_reset and not answers.turns,
                retry_key=key_of_part(retry_key, place),
            )
            for future in futures:
                answers.turns.append(await _answer(service, name, future, query))
        except (ValueError, OSError, PoolError, Refused) as error:
            service.metrics.refused(reason_of(error))
            answers.errors.append(TurnError(turn_error(speakers[channel], start, offset + turn.end, error)))
    return answers


async def _submitted(service: Service, name: str, query: TurnQuery, *audio, **turn) -> list[TurnFuture]:
    """A turn in the pool's queue, or its pieces if they are wanted; arguments and errors as `submit` of a pool."""
    pool = service.pool
    turn["settings"] = query.label_settings(pool.label_settings)
    if query.split_long:
        return await run_in_threadpool(pool.submit_split, name, *audio, **turn)
    return [await run_in_threadpool(pool.submit, name, *audio, **turn)]


async def _end_of(service: Service, name: str, *, is_reset: bool) -> float:
    """Seconds at which a conversation ends so far; the last turn is not always the one that ends last."""
    turns = [] if is_reset else await run_in_threadpool(service.pool.history, name)
    return max((turn.end for turn in turns), default=0.0)


def turn_error(speaker: str | None, start: float, end: float, error: Exception) -> str:
    """The error message of a turn of a longer recording that cannot be scored."""
    who = "" if speaker is None else f" of {speaker}"
    return f"The turn{who} from {start:.2f} to {end:.2f} s: {getattr(error, 'detail', error)}"


def _too_long(service: Service) -> Refused:
    return Refused(413, f"A turn may last up to {service.settings.max_seconds:g} s.", "too_long")


async def _answer(service: Service, name: str, future: TurnFuture, query: TurnQuery) -> TurnAnswer:
    """The result of a turn, which is withdrawn if it takes too long and has not begun."""
    seconds = service.settings.turn_seconds
    try:
        turn = await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except TimeoutError:
        fate = "withdrawn"
        if not future.cancel():
            service.limit.use(name)
            fate = "still being processed and will be kept"
        raise Refused(504, f"No answer within {seconds:g} s; the turn is {fate}.", "slow_answer") from None
    stages = dict(future.stages) if query.debug else None
    return turn_answer(name, turn, min_seconds=service.pool.min_turn_seconds, stages=stages)
