"""A conversation over a WebSocket: pieces of sound in, turns out."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from ..live.pool import ConversationPool, PoolError
from ..live.turn_detector import SpokenTurn, TurnDetector
from ..modeling.audio_decoding import check_rate


async def serve_stream(
    websocket: WebSocket, pool: ConversationPool, name: str, sampling_rate: int, speaker: str | None, seconds: float
) -> None:
    """Hear a stream until the client ends it, or for so many `seconds`.

    The client sends binary messages: pieces of mono sound, 16-bit integers, little-endian, at `sampling_rate`. The
    server cuts turns at pauses and answers each with a JSON message. A JSON message of the client changes what
    follows: `{"speaker": "B"}` (the turn that goes on ends there), `{"sampling_rate": 8000}`, or `{"end": true}` (the
    last turn ends; the server answers it and closes). A message that cannot be used is answered with `{"error": ...}`
    and changes nothing; so is a turn that cannot be heard, with its times. A client that goes away in the middle of a
    turn takes that turn with it: it is not heard. A conversation has one stream at a time: turns are heard as they
    end, and must come in the order of their start.
    """
    await websocket.accept()
    try:
        async with asyncio.timeout(seconds):
            await _Stream(websocket, pool, name, sampling_rate, speaker).run()
        await websocket.close()
    except ValueError as error:
        await websocket.close(1008, str(error)[:120])
    except TimeoutError:
        await websocket.close(1008, f"A stream may be open for {seconds:g} s.")
    except WebSocketDisconnect:
        return  # nobody is there to be told


class _Stream:
    def __init__(
        self, websocket: WebSocket, pool: ConversationPool, name: str, sampling_rate: int, speaker: str | None
    ):
        self._websocket, self._pool, self._name = websocket, pool, name
        self._rate, self._speaker = sampling_rate, speaker

    async def run(self) -> None:
        check_rate(self._rate)
        self._detector = await run_in_threadpool(TurnDetector)
        turns = await run_in_threadpool(self._pool.history, self._name)
        self._offset = turns[-1].end if turns else 0.0
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            try:
                if message.get("bytes") is not None:
                    await self._take_sound(message["bytes"])
                elif await self._take_text(message["text"]):
                    return
            except ValueError as error:
                await self._websocket.send_json({"error": str(error)})

    async def _take_sound(self, content: bytes) -> None:
        if len(content) % 2:
            raise ValueError(f"Sound comes as 16-bit integers, and {len(content)} bytes are no whole number of them.")
        samples = np.frombuffer(content, "<i2")
        await self._answer(await run_in_threadpool(self._detector.feed, samples, self._rate))

    async def _take_text(self, text: str) -> bool:
        """Whether the client ends the stream."""
        wanted = json.loads(text)
        if not isinstance(wanted, dict) or not wanted or {*wanted} - {"speaker", "sampling_rate", "end"}:
            raise ValueError(f"A message holds speaker, sampling_rate or end, got {text[:200]}.")
        speaker, rate = wanted.get("speaker", self._speaker), wanted.get("sampling_rate", self._rate)
        if (
            not isinstance(speaker, str | None)
            or type(rate) is not int
            or not isinstance(wanted.get("end", True), bool)
        ):
            raise ValueError(f"speaker is a name, sampling_rate a whole number and end true, got {text[:200]}.")
        check_rate(rate)
        if "speaker" in wanted or wanted.get("end"):
            await self._answer(await run_in_threadpool(self._detector.flush))
        self._speaker, self._rate = speaker, rate
        return wanted.get("end", False)

    async def _answer(self, turns: list[SpokenTurn]) -> None:
        for turn in turns:
            start, end = self._offset + turn.start, self._offset + turn.end
            sound = (turn.waveform, 16_000)
            try:
                heard = await run_in_threadpool(self._pool.push, self._name, sound, speaker=self._speaker, start=start)
            except (ValueError, OSError, PoolError) as error:
                # The stream goes on, with whoever talks next.
                await self._websocket.send_json({"error": f"The turn from {start:.2f} to {end:.2f} s: {error}"})
            else:
                await self._websocket.send_json(asdict(heard))
