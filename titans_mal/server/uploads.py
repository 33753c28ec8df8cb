"""The audio of a request: its body, or the file `audio` of a form."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable

from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from .errors import Refused
from .settings import ServerSettings


# Request bodies with audio, for the OpenAPI document.
AUDIO_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "audio/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"audio": {"type": "string", "format": "binary"}},
                    "required": ["audio"],
                    "additionalProperties": False,
                }
            },
        },
    }
}


class _InMemory(MultiPartParser):
    # Audio is never written to disk: the body is kept in memory, and bounded.
    spool_max_size = sys.maxsize


async def read_audio(request: Request, settings: ServerSettings, received: Callable[[int], None]) -> bytes:
    """The encoded audio of a request.

    Args:
        received: called with the size of each piece, as `UploadLimit.request` returns it.

    Raises:
        Refused: for a body that is empty, too large, too slow or aborted, or a form without exactly one file `audio`;
            and from `received`.
    """
    body = await _body(request, settings, received)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() == "multipart/form-data":
        body = await _file_of_form(request.headers, body)
    if not body:
        raise Refused(422, "The body is empty: send an audio file.", "empty")
    return body


async def _file_of_form(headers: Headers, body: bytes) -> bytes:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemory(headers, whole(), max_files=1, max_fields=1).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refused(422, f"The form cannot be read: {getattr(error, 'message', error)}", "form") from None
    audio = form.get("audio")
    if len(form.multi_items()) != 1 or not isinstance(audio, UploadFile):
        given = ", ".join(name[:40] for name, _ in form.multi_items()) or "nothing"
        raise Refused(422, f"A form must hold one file, audio; settings belong in the query; got {given}.", "form")
    return await audio.read()


async def _body(request: Request, settings: ServerSettings, received: Callable[[int], None]) -> bytes:
    """The body, reading at most the allowed bytes and seconds."""
    pieces, size, most = [], 0, settings.max_megabytes * 1_000_000
    try:
        async with asyncio.timeout(settings.turn_seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise Refused(413, f"An audio file may have up to {settings.max_megabytes:g} MB.", "too_large")
                received(len(piece))
                pieces.append(piece)
    except TimeoutError:
        raise Refused(408, f"The body did not arrive within {settings.turn_seconds:g} s.", "slow_body") from None
    except ClientDisconnect:
        raise Refused(400, "The client disconnected.", "gone") from None
    return b"".join(pieces)
