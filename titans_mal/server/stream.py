"""A conversation over a WebSocket: pieces of sound in, turns out."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import numpy as np
from fastapi import HTTPException, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from ..live.pool import ConversationPool, PoolError
from ..live.turn_detector import SpokenTurn, TurnDetector
from ..live.turns import check_speaker
from ..modeling.audio_decoding import check_rate
from ..modeling.json_text import parse_json
from .limits import ConversationLimit


async def serve_stream(
    websocket: WebSocket,
    pool: ConversationPool,
    name: str,
    sampling_rate: int,
    speaker: str | None,
    *,
    limit: ConversationLimit,
    seconds: float,
    idle_seconds: float,
) -> None:
    """Score a stream until the client ends it, for so many `seconds`, or until it sends nothing for `idle_seconds`.

    The client sends binary messages: pieces of mono sound, 16-bit integers, little-endian, at `sampling_rate`. The
    server cuts turns at pauses and answers each with a JSON message. A JSON message of the client changes what
    follows: `{"speaker": "B"}` (the turn that goes on ends there), `{"sampling_rate": 8000}`, or `{"end": true}` (the
    last turn ends; the server answers it and closes). A message that cannot be used is answered with `{"error": ...}`
    and changes nothing; so is a turn that cannot be used, with its times. If a client disconnects during a turn, that
    turn is discarded. A conversation has one stream at a time: turns are scored in the order of their ends.
    """
    await websocket.accept()
    try:
        async with asyncio.timeout(seconds):
            await _Stream(websocket, pool, name, sampling_rate, speaker, limit, idle_seconds).run()
        await websocket.close()
    except ValueError as error:
        await websocket.close(1008, _reason(error))
    except TimeoutError:
        await websocket.close(1008, f"A stream may be open for {seconds:g} s.")
    except (OSError, PoolError) as error:
        # As where Redis does not answer: later it may.
        await websocket.close(1013, _reason(error))
    except WebSocketDisconnect:
        return  # there is nobody to answer


def _reason(error: Exception) -> str:
    """An error in as many bytes as the closing of a WebSocket has room for."""
    return str(error).encode("utf-8", "replace")[:120].decode("utf-8", "ignore")


class _Stream:
    def __init__(
        self,
        websocket: WebSocket,
        pool: ConversationPool,
        name: str,
        sampling_rate: int,
        speaker: str | None,
        limit: ConversationLimit,
        idle_seconds: float,
    ):
        self._websocket, self._pool, self._name = websocket, pool, name
        self._limit, self._idle_seconds = limit, idle_seconds
        self._rate, self._speaker = sampling_rate, speaker

    async def run(self) -> None:
        check_rate(self._rate)
        self._detector = await run_in_threadpool(TurnDetector)
        turns = await run_in_threadpool(self._pool.history, self._name)
        self._offset = turns[-1].end if turns else 0.0
        while True:
            message = await self._next_message()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            try:
                if message.get("bytes") is not None:
                    await self._take_sound(message["bytes"])
                elif await self._take_text(message.get("text") or ""):
                    return
            except ValueError as error:
                await self._websocket.send_json({"error": str(error)})

    async def _next_message(self) -> dict:
        try:
            async with asyncio.timeout(self._idle_seconds) as idle:
                return await self._websocket.receive()
        except TimeoutError:
            if not idle.expired():
                raise
            raise ValueError(f"The client sent nothing for {self._idle_seconds:g} s.") from None

    async def _take_sound(self, content: bytes) -> None:
        if len(content) % 2:
            raise ValueError(f"Sound comes as 16-bit integers, and {len(content)} bytes are no whole number of them.")
        samples = np.frombuffer(content, "<i2")
        await self._answer(await run_in_threadpool(self._detector.feed, samples, self._rate))

    async def _take_text(self, text: str) -> bool:
        """Whether the client ends the stream."""
        wanted = parse_json(text, "The message")
        if not isinstance(wanted, dict) or not wanted or {*wanted} - {"speaker", "sampling_rate", "end"}:
            raise ValueError(f"A message holds speaker, sampling_rate or end, got {text[:200]}.")
        speaker, rate = wanted.get("speaker", self._speaker), wanted.get("sampling_rate", self._rate)
        if type(rate) is not int or not isinstance(wanted.get("end", True), bool):
            raise ValueError(f"sampling_rate is a whole number and end true, got {text[:200]}.")
        check_rate(rate)
        check_speaker(speaker)
        if "speaker" in wanted or wanted.get("end"):
            await self._answer(await run_in_threadpool(self._detector.flush))
        self._speaker, self._rate = speaker, rate
        return wanted.get("end", False)

    async def _answer(self, turns: list[SpokenTurn]) -> None:
        for turn in turns:
            start, end = self._offset + turn.start, self._offset + turn.end
            sound = (turn.waveform, 16_000)
            try:
                with self._limit.place(self._name):
                    scored = await run_in_threadpool(
                        self._pool.push, self._name, sound, speaker=self._speaker, start=start
                    )
            except (ValueError, OSError, PoolError, HTTPException) as error:
                # The stream goes on, with whoever talks next.
                told = error.detail if isinstance(error, HTTPException) else error
                await self._websocket.send_json({"error": f"The turn from {start:.2f} to {end:.2f} s: {told}"})
            else:
                await self._websocket.send_json(asdict(scored))
