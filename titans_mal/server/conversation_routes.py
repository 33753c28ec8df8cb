"""Conversations over HTTP: their turns, their names, and how they and remembered persons are forgotten.

Annotations are evaluated here: FastAPI reads them.
"""

import bisect
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool

from ..live.summary import summarize
from ..live.turns import TurnEmotion
from .answers import (
    ConversationName,
    ConversationPage,
    ConversationSummary,
    ErrorAnswer,
    TurnAnswer,
    TurnList,
    turn_answer,
)
from .file_turns import add_channels, add_turn
from .queries import NoQuery, PageQuery, SummaryQuery, TurnQuery
from .service import Service, bearer
from .uploads import AUDIO_BODY, read_audio


Name = Annotated[str, Path(min_length=1, max_length=200, description="Name of the conversation; created if new.")]
RetryKey = Annotated[
    str | None,
    Header(min_length=1, max_length=200, description="Key of this turn: repeated requests with it add no turn."),
]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in statuses}


def conversation_routes(service: Service) -> APIRouter:
    """/conversations."""
    pool = service.pool
    protected = [Depends(service.check_token), Depends(bearer)]
    router = APIRouter(
        prefix="/conversations", tags=["conversations"], dependencies=protected, responses=_errors(401, 422, 503)
    )

    async def known_turns(name: str) -> list[TurnEmotion]:
        turns = await run_in_threadpool(pool.history, name)
        if not turns:
            raise HTTPException(404, f"No turn of a conversation {name!r} is known.")
        return turns

    @router.post("/{name}/turns", openapi_extra=AUDIO_BODY, responses=_errors(400, 408, 413, 504))
    async def turns(
        name: Name, request: Request, query: Annotated[TurnQuery, Query()], idempotency_key: RetryKey = None
    ) -> TurnAnswer | TurnList:
        """Score the next turn of a conversation: an audio file as the body, or as the file `audio` of a form.

        With `channels=2&speakers=caller,agent` the file has one speaker per channel: each channel is split at its own
        pauses, and the response holds the turns of all, in the order of their ends. With `split_long=true` a turn that
        is longer than the host's window becomes several, cut at its pauses, and the response holds all of them.

        A request is processed even if the client disconnects after sending its body. A 504 response says whether the
        turn was withdrawn. If a request is repeated with the same `Idempotency-Key`, a turn that was already written
        is returned and not written again.
        """
        with service.limit.place(name), service.uploads.request() as received:
            body = await read_audio(request, service.settings, received)
            add = add_turn if query.channels == 1 else add_channels
            return await add(service, name, body, query, idempotency_key)

    @router.get("")
    async def names(query: Annotated[PageQuery, Query()]) -> ConversationPage:
        """The names of all stored conversations, page by page."""
        known = await run_in_threadpool(pool.names)
        first = 0 if query.after is None else bisect.bisect_right(known, query.after)
        page = known[first : first + query.limit]
        has_more = first + query.limit < len(known)
        return ConversationPage([ConversationName(name) for name in page], page[-1] if has_more else None)

    @router.get("/{name}/summary", responses=_errors(404))
    async def summary(name: Name, query: Annotated[SummaryQuery, Query()]) -> ConversationSummary:
        """Summary of a conversation by speaker.

        The share of each emotion, the rolling mood, the longest run, the last change, and the course of each dimension
        of the model, such as valence.
        """
        turns = await known_turns(name)
        return ConversationSummary(name, len(turns), query.time_constant, summarize(turns, **query.model_dump()))

    @router.get("/{name}", responses=_errors(404))
    async def history(name: Name, _: Annotated[NoQuery, Query()]) -> list[TurnAnswer]:
        """The turns of a conversation so far."""
        turns = await known_turns(name)
        return [turn_answer(name, turn, min_seconds=pool.min_turn_seconds) for turn in turns]

    @router.delete("/{name}", status_code=204)
    async def forget(name: Name, _: Annotated[NoQuery, Query()]) -> None:
        """Delete a conversation: its state, its turns, and its name."""
        await run_in_threadpool(service.forget, name)

    return router


def person_routes(service: Service) -> APIRouter:
    """/persons."""
    protected = [Depends(service.check_token), Depends(bearer)]
    router = APIRouter(prefix="/persons", tags=["persons"], dependencies=protected, responses=_errors(401, 422, 503))

    @router.delete("/{person}", status_code=204)
    async def forget(
        person: Annotated[str, Path(min_length=1, max_length=200, description="As given with the turns.")],
        _: Annotated[NoQuery, Query()],
    ) -> None:
        """Delete the memory of a person: the next call starts without it, and no call that goes on stores it again."""
        await run_in_threadpool(service.pool.forget_person, person)

    return router
