"""Live calls in real time against servers of the tiny checkpoint: how many a core takes, and how long answers take.

    python examples/benchmarks/live_calls.py [--servers 2 --redis redis-server] [--seconds 60] [--calls 200]

A turn arrives when it ends, whether the one before was answered or not; between turns of a call somebody else talks.
First a flood of turns shows how many a second the servers answer. The calls whose turns are that many are the full
load; half of it, 80 % and all of it are tried, and, with --calls, that many calls. Beside each p95 stands that of a
queue with the batch times that were measured, for the same arrivals (`queue_simulation.py`). Below the table stands
where the time went: the mean of each stage of a turn, and of the rest, which is HTTP, the event loop and this client.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from queue_simulation import simulate
from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion, ConversationPool
from titans_mal.data.audio import audio_seconds


QUICKSTART = Path(__file__).resolve().parents[1] / "quickstart"
# Seconds of the others' speech and pauses between two turns of a call, on average.
GAP = 4.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`titans-mal serve` in a process, on one core."""

    def __init__(self, states: str, max_batch: int):
        self.port = free_port()
        command = [sys.executable, "-m", "titans_mal.cli", "serve", "--port", str(self.port), "--states", states]
        command += ["--max-batch", str(max_batch), "--max-conversations", "100000"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError("The server ended before it answered.")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc_info) -> None:
        self.process.terminate()
        self.process.wait(timeout=120)


class Connections:
    """HTTP/1.1 connections to a server that are used again; a library would take a good part of the core."""

    def __init__(self, port: int):
        self._port = port
        self._free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def request(self, method: str, path: str, body: bytes = b"") -> dict | None:
        """The answer to a request; None for another status than 200."""
        # The server closes a connection that is idle for five seconds.
        while self._free and self._free[-1][0] < time.perf_counter() - 4:
            self._free.pop()[2].close()
        _, reader, writer = self._free.pop() if self._free else (0, *await self._connect())
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length")), 0)
        content = await reader.readexactly(length)
        self._free.append((time.perf_counter(), reader, writer))
        return json.loads(content) if " 200 " in lines[0] else None


async def flood(servers: list[Connections], bodies: list[bytes], seconds: float, clients: int = 48) -> float:
    """Turns a second that the servers answer to clients that send the next turn at once."""
    answered = 0
    ends = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal answered
        address = f"/conversations/flood-{seconds}-{number}"
        for place in itertools.count():
            if time.perf_counter() > ends:
                break
            # Each turn at another server, as behind a proxy that knows nothing of calls.
            server = servers[(number + place) % len(servers)]
            body = bodies[(number + place) % len(bodies)]
            if await server.request("POST", f"{address}/turns", body) is not None:
                answered += 1
        await servers[0].request("DELETE", address)

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return answered / (time.perf_counter() - began)


def timetable(calls: int, lengths: list[float], seconds: float, seed: int) -> list[tuple[float, int, int]]:
    """When turns end: time, call and number of the recording; each call begins somewhere within a turn."""
    rng = np.random.default_rng(seed)
    turns = []
    for call in range(calls):
        now = rng.uniform(0, GAP + statistics.mean(lengths))
        while now < seconds:
            place = int(rng.integers(len(lengths)))
            turns.append((now, call, place))
            now += rng.exponential(GAP) + lengths[place]
    return sorted(turns)


class Played(NamedTuple):
    """A turn that was sent: its latency is None, and its stages are empty, if it was not answered."""

    arrived: float
    call: int
    server: int
    latency: float | None
    stages: dict[str, float]


async def play(
    servers: list[Connections], bodies: list[bytes], turns: list[tuple[float, int, int]], name: str
) -> list[Played]:
    """Send turns by their timetable; calls are deleted at the end."""
    began = time.perf_counter()

    async def one(place: int, at: float, call: int, turn: int) -> Played:
        await asyncio.sleep(at - (time.perf_counter() - began))
        arrived = time.perf_counter() - began
        server = place % len(servers)
        path = f"/conversations/{name}-{call}/turns?debug=true"
        try:
            answer = await servers[server].request("POST", path, bodies[turn])
        except (OSError, asyncio.IncompleteReadError):
            answer = None
        if answer is None:
            return Played(arrived, call, server, None, {})
        return Played(arrived, call, server, time.perf_counter() - began - arrived, answer["stages"])

    played = await asyncio.gather(*(one(place, *turn) for place, turn in enumerate(turns)))
    for call in {call for _, call, _ in turns}:
        await servers[0].request("DELETE", f"/conversations/{name}-{call}")
    return played


def batch_times(turns: list[bytes], max_batch: int, rounds: int = 5) -> tuple[dict[int, float], float]:
    """Seconds of a batch by its size, with reading and writing of states, and of decoding a turn; on one core."""
    import torch

    torch.set_num_threads(1)
    model = AutoModelForAudioEmotion.from_pretrained(QUICKSTART / "tiny-qwen2-audio-mal")
    processor = AutoProcessor.from_pretrained(QUICKSTART / "tiny-qwen2-audio-mal")
    times: dict[int, float] = {}
    decoding = []
    for size in sorted({1, 2, 4, 8, max_batch}):
        taken = []
        # A batch goes when it is full.
        with ConversationPool(model, processor, max_batch=size, max_wait_ms=10_000) as pool:
            for place in range(rounds + 1):
                futures = [pool.submit(f"{call}", turns[(call + place) % len(turns)]) for call in range(size)]
                for future in futures:
                    future.result()
                taken.append(max(future.stages["forward"] + future.stages["store"] for future in futures))
                decoding += [future.stages["decode"] for future in futures]
        times[size] = statistics.median(taken[1:])
    return times, statistics.median(decoding)


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")


def row(name: str, calls: int, played: list[Played], times: dict[int, float], decoding: float, arguments) -> str:
    latencies = [turn.latency for turn in played if turn.latency is not None]
    expected = []
    for server in range(arguments.servers):
        arrivals = sorted((turn.arrived, str(turn.call)) for turn in played if turn.server == server)
        expected += simulate(arrivals, times, arguments.max_batch, before=decoding)
    rate = len(played) / max(turn.arrived for turn in played)
    p50, p95, p99 = (1000 * percentile(latencies, share) for share in (50, 95, 99))
    simulated = 1000 * percentile(expected, 95)
    cells = [arguments.servers, name, calls, f"{rate:.1f}", f"{p50:.0f}", f"{p95:.0f}", f"{p99:.0f}"]
    cells += [f"{simulated:.0f}", f"{p95 / simulated:.2f}", len(played) - len(latencies)]
    return f"| {' | '.join(map(str, cells))} |"


def where_time_went(played: list[Played]) -> str:
    """The mean of each stage and of the rest, in ms."""
    answered = [turn for turn in played if turn.latency is not None]
    stages = {name: statistics.mean(turn.stages[name] for turn in answered) for name in answered[0].stages}
    rest = statistics.mean(turn.latency or 0.0 for turn in answered) - sum(stages.values())
    return ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in {**stages, "rest": rest}.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--redis", help="command that starts a Redis server, which several servers need")
    parser.add_argument("--seconds", type=float, default=60, help="seconds of each load")
    parser.add_argument("--calls", type=int, help="number of simultaneous calls to try in addition")
    parser.add_argument("--max-batch", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.servers > 1 and not arguments.redis:
        parser.error("several servers share their states in Redis: give --redis")
    files = sorted((QUICKSTART / "conversation").glob("turn_*.wav"))
    bodies, lengths = [file.read_bytes() for file in files], [audio_seconds(file) for file in files]
    times, decoding = batch_times(bodies, arguments.max_batch)
    batches = ", ".join(f"{size} turns {1000 * seconds:.0f} ms" for size, seconds in times.items())
    print(f"Batches: {batches}; decoding: {1000 * decoding:.1f} ms\n")
    with ExitStack() as stack:
        states = stack.enter_context(tempfile.TemporaryDirectory())
        if arguments.redis:
            port = free_port()
            command = [arguments.redis, "--port", str(port), "--bind", "127.0.0.1", "--dir", states, "--save", ""]
            redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(redis.terminate)
            time.sleep(1)
            states = f"redis://127.0.0.1:{port}/0"
        made = [stack.enter_context(Server(states, arguments.max_batch)) for _ in range(arguments.servers)]
        asyncio.run(_measure([server.port for server in made], bodies, lengths, times, decoding, arguments))


async def _measure(ports: list[int], bodies: list[bytes], lengths: list[float], times, decoding, arguments) -> None:
    servers = [Connections(port) for port in ports]
    await flood(servers, bodies, 3)
    rate = await flood(servers, bodies, 10)
    full = round(rate * (GAP + statistics.mean(lengths)))
    cycle = GAP + statistics.mean(lengths)
    per_core = f"{full / len(ports):.0f} a core"
    print(f"{rate:.1f} turns a second: {full} calls in real time, {per_core}, with a turn every {cycle:.1f} s\n")
    print("| servers | load | calls | turns/s | p50, ms | p95, ms | p99, ms | simulated p95 | ratio | not answered |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    loads = [(f"{share:.0%}", max(1, round(share * full))) for share in (0.5, 0.8, 1.0)]
    loads += [(f"{arguments.calls / full:.0%}", arguments.calls)] if arguments.calls else []
    stages = []
    for seed, (name, calls) in enumerate(loads):
        turns = timetable(calls, lengths, arguments.seconds, seed)
        played = await play(servers, bodies, turns, f"load-{seed}")
        print(row(name, calls, played, times, decoding, arguments), flush=True)
        stages.append(f"{name}: {where_time_went(played)}")
    print("\nMean ms of a turn at a load of " + "; ".join(stages))


if __name__ == "__main__":
    main()
