"""A conversation over a WebSocket: pieces of audio in, turns out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from ..live.channels import ChannelDetector
from ..live.pool import PoolError
from ..live.turn_detector import SpokenTurn
from ..live.turn_queue import TurnFuture
from ..live.turns import RATE
from ..modeling.audio_checks import check_rate
from .answers import TurnAnswer, turn_answer
from .errors import Refused, close_reason, reason_of
from .file_turns import turn_error
from .queries import StreamQuery
from .service import Service
from .stream_messages import read_message


async def serve_stream(websocket: WebSocket, service: Service, name: str, query: StreamQuery) -> None:
    """Score a stream until the client ends it, or a limit is reached.

    `asyncapi.PROTOCOL` describes the messages and the codes with which the stream is closed. Each channel is split at
    its pauses; turns are scored in the order of their ends. If a client disconnects during a turn, that turn is
    discarded; if the server stops, the open turns end and are answered. A conversation has one stream at a time.
    """
    await websocket.accept()
    seconds = service.settings.stream_seconds
    try:
        async with asyncio.timeout(seconds):
            is_stopped = await _Stream(websocket, service, name, query).run()
        await websocket.close(*((1012, "The server stops.") if is_stopped else ()))
    except ValueError as error:
        await websocket.close(1008, close_reason(error))
    except TimeoutError:
        await websocket.close(1008, f"A stream may be open for {seconds:g} s.")
    except (OSError, PoolError) as error:
        # For example if Redis does not answer: the client may try again later.
        await websocket.close(1013, close_reason(error))
    except WebSocketDisconnect:
        return  # the client is gone


class _Stream:
    def __init__(self, websocket: WebSocket, service: Service, name: str, query: StreamQuery):
        self._websocket, self._service, self._pool, self._name = websocket, service, service.pool, name
        self._rate, self._debug, self._channels = query.sampling_rate, query.debug, query.channels
        self._submit = self._pool.submit_split if query.split_long else self._submit_one
        self._speakers: list[str | None] = [*query.channel_speakers] or [query.speaker]
        self._persons = query.channel_persons
        self._settings = query.label_settings(self._pool.label_settings)

    async def run(self) -> bool:
        """Whether the stream ends because the server stops, and not because the client ends it."""
        check_rate(self._rate)
        self._pool.check(self._settings)
        self._detector = await run_in_threadpool(ChannelDetector, self._channels)
        turns = await run_in_threadpool(self._pool.history, self._name)
        # Turns may overlap, so the last one is not always the one that ends last.
        self._offset = max((turn.end for turn in turns), default=0.0)
        while True:
            message = await self._next_message()
            if message is None:
                await self._end_turns()
                return True
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            try:
                if message.get("bytes") is not None:
                    await self._take_audio(message["bytes"])
                elif await self._take_text(message.get("text") or ""):
                    return False
            except ValueError as error:
                await self._websocket.send_json({"error": str(error)})

    async def _next_message(self) -> dict | None:
        """The client's next message; None if there is none and the server stops."""
        seconds = self._service.settings.idle_seconds
        receiving = asyncio.create_task(self._websocket.receive())
        stopping = asyncio.create_task(self._service.stopping.wait())
        try:
            await asyncio.wait((receiving, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return dict(receiving.result())
            if stopping.done():
                return None
            raise ValueError(f"The client sent nothing for {seconds:g} s.")
        finally:
            receiving.cancel()
            stopping.cancel()

    async def _take_audio(self, content: bytes) -> None:
        frame = 2 * self._channels
        if len(content) % frame:
            per_channel = "" if self._channels == 1 else f" for each of {self._channels} channels"
            raise ValueError(
                f"Audio must be 16-bit integers{per_channel}: {len(content)} bytes are not a multiple of {frame}."
            )
        samples = np.frombuffer(content, "<i2").reshape(-1, self._channels).T
        seconds, most = samples.shape[1] / self._rate, self._service.settings.max_seconds
        if seconds > most:
            raise ValueError(f"A message may hold up to {most:g} s of audio, got {seconds:.1f} s.")
        # Detection needs several copies of a piece, at 16 kHz.
        for first in range(0, samples.shape[1], self._rate):
            began = time.perf_counter()
            turns = await run_in_threadpool(self._detector.feed, samples[:, first : first + self._rate], self._rate)
            await self._answer(turns, time.perf_counter() - began)

    async def _take_text(self, text: str) -> bool:
        """Whether the client ends the stream."""
        message = read_message(text)
        is_end = message.get("end", False)
        if "speaker" in message and self._channels > 1:
            raise ValueError(f"The speakers of {self._channels} channels cannot change within a stream.")
        if "speaker" in message or is_end:
            await self._end_turns()
        if "speaker" in message:
            self._speakers[0], self._persons[0] = message["speaker"], message.get("person")
        self._rate = message.get("sampling_rate", self._rate)
        return is_end

    async def _end_turns(self) -> None:
        """End the open turns, and answer them."""
        began = time.perf_counter()
        turns = await run_in_threadpool(self._detector.flush)
        await self._answer(turns, time.perf_counter() - began)

    async def _answer(self, turns: list[tuple[int, SpokenTurn]], seconds: float) -> None:
        """Score turns of channels, whose detection took `seconds`, and answer each."""
        for channel, turn in turns:
            speaker, start, end = self._speakers[channel], self._offset + turn.start, self._offset + turn.end
            answers: list[TurnAnswer | Exception]
            try:
                answers = await self._score(turn, channel, start, seconds)
            except (ValueError, OSError, PoolError, Refused) as error:
                answers = [error]
            for answer in answers:
                if isinstance(answer, Exception):
                    # The stream continues with the next turn.
                    self._service.metrics.refused(reason_of(answer))
                    await self._websocket.send_json({"error": turn_error(speaker, start, end, answer)})
                else:
                    await self._websocket.send_json(asdict(answer))

    def _submit_one(self, *audio, **turn) -> list[TurnFuture]:
        return [self._pool.submit(*audio, **turn)]

    async def _score(
        self, turn: SpokenTurn, channel: int, start: float, detected_in: float
    ) -> list[TurnAnswer | Exception]:
        """The answer of a turn, or of each of its pieces, or its error."""
        with self._service.limit.place(self._name):
            futures = await run_in_threadpool(
                self._submit,
                self._name,
                turn.waveform,
                RATE,
                speaker=self._speakers[channel],
                person=self._persons[channel],
                start=start,
                settings=self._settings,
                stages={"detect": detected_in},
            )
            scored = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        answers: list[TurnAnswer | Exception] = []
        for one, future in zip(scored, futures):
            if isinstance(one, ValueError | OSError | PoolError):
                answers.append(one)
            elif isinstance(one, BaseException):
                raise one
            else:
                stages = dict(future.stages) if self._debug else None
                answers.append(turn_answer(self._name, one, min_seconds=self._pool.min_turn_seconds, stages=stages))
        return answers
