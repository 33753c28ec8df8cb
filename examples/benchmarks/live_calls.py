"""Live calls in real time against servers of the tiny checkpoint: how many a core takes, and how long answers take.

    python examples/benchmarks/live_calls.py [--servers 2 --redis redis-server] [--seconds 60] [--calls 200]

A turn arrives when it ends, whether the one before was answered or not; between turns of a call somebody else talks.
First a flood of turns shows how many a second the servers answer. The calls whose turns are that many are the full
load; half of it, 80 % and all of it are tried, and, with --calls, that many calls. Beside each p95 stands that of a
queue with the batch times that were measured, for the same arrivals (`queue_simulation.py`).
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

import numpy as np
from queue_simulation import simulate
from transformers import AutoProcessor

from titans_mal import AutoModelForAudioEmotion, ConversationPool, load_audio


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

    async def post(self, path: str, body: bytes) -> dict | None:
        """The answer to a turn; None where it is none."""
        # The server closes a connection that is idle for five seconds.
        while self._free and self._free[-1][0] < time.perf_counter() - 4:
            self._free.pop()[2].close()
        _, reader, writer = self._free.pop() if self._free else (0, *await self._connect())
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
        content = await reader.readexactly(length)
        self._free.append((time.perf_counter(), reader, writer))
        return json.loads(content) if " 200 " in lines[0] else None


async def flood(servers: list[Connections], bodies: list[bytes], seconds: float, clients: int = 48) -> float:
    """Turns a second that the servers answer to clients that send the next turn at once."""
    answered = 0
    ends = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal answered
        for place in itertools.count():
            if time.perf_counter() > ends:
                return
            # Each turn at another server, as behind a proxy that knows nothing of calls.
            server = servers[(number + place) % len(servers)]
            path = f"/conversations/flood-{seconds}-{number}/turns"
            if await server.post(path, bodies[(number + place) % len(bodies)]) is not None:
                answered += 1

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


async def play(servers: list[Connections], bodies: list[bytes], turns: list[tuple[float, int, int]], name: str):
    """Send turns by their timetable: arrival, latency and server of each; latency None where it was not answered."""
    began = time.perf_counter()

    async def one(place: int, at: float, call: int, turn: int):
        await asyncio.sleep(at - (time.perf_counter() - began))
        arrived = time.perf_counter() - began
        server = place % len(servers)
        try:
            answer = await servers[server].post(f"/conversations/{name}-{call}/turns", bodies[turn])
        except (OSError, asyncio.IncompleteReadError):
            answer = None
        return arrived, call, server, None if answer is None else time.perf_counter() - began - arrived

    return await asyncio.gather(*(one(place, *turn) for place, turn in enumerate(turns)))


def batch_times(turns: list[np.ndarray], max_batch: int, rounds: int = 5) -> dict[int, float]:
    """Seconds of a batch by its size, with reading and writing of states; on one core."""
    import torch

    torch.set_num_threads(1)
    model = AutoModelForAudioEmotion.from_pretrained(QUICKSTART / "tiny-qwen2-audio-mal")
    processor = AutoProcessor.from_pretrained(QUICKSTART / "tiny-qwen2-audio-mal")
    times: dict[int, float] = {}
    for size in sorted({1, 2, 4, 8, max_batch}):
        taken = []
        # A batch goes when it is full.
        with ConversationPool(model, processor, max_batch=size, max_wait_ms=10_000) as pool:
            for place in range(rounds + 1):
                futures = [pool.submit(f"{call}", turns[(call + place) % len(turns)], 16_000) for call in range(size)]
                for future in futures:
                    future.result()
                taken.append(max(future.stages["forward"] + future.stages["store"] for future in futures))
        times[size] = statistics.median(taken[1:])
    return times


def percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")


def row(name: str, calls: int, played, times: dict[int, float], arguments) -> str:
    latencies = [latency for *_, latency in played if latency is not None]
    expected = []
    for server in range(arguments.servers):
        arrivals = sorted((arrived, str(call)) for arrived, call, at, _ in played if at == server)
        expected += simulate(arrivals, times, arguments.max_batch)
    rate = len(played) / max(arrived for arrived, *_ in played)
    p50, p95, p99 = (1000 * percentile(latencies, share) for share in (50, 95, 99))
    simulated = 1000 * percentile(expected, 95)
    cells = [arguments.servers, name, calls, f"{rate:.1f}", f"{p50:.0f}", f"{p95:.0f}", f"{p99:.0f}"]
    cells += [f"{simulated:.0f}", f"{p95 / simulated:.2f}", len(played) - len(latencies)]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--redis", help="the command of a Redis server, which several servers need")
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--calls", type=int, help="try that many calls, too")
    parser.add_argument("--max-batch", type=int, default=16)
    arguments = parser.parse_args()
    if arguments.servers > 1 and not arguments.redis:
        parser.error("several servers share their states in Redis: give --redis")
    files = sorted((QUICKSTART / "conversation").glob("turn_*.wav"))
    turns, bodies = [load_audio(file) for file in files], [file.read_bytes() for file in files]
    lengths = [len(turn) / 16_000 for turn in turns]
    times = batch_times(turns, arguments.max_batch)
    print(f"Batches: {', '.join(f'{size} turns {1000 * seconds:.0f} ms' for size, seconds in times.items())}\n")
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
        asyncio.run(_measure([server.port for server in made], bodies, lengths, times, arguments))


async def _measure(ports: list[int], bodies: list[bytes], lengths: list[float], times, arguments) -> None:
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
    for seed, (name, calls) in enumerate(loads):
        turns = timetable(calls, lengths, arguments.seconds, seed)
        played = await play(servers, bodies, turns, f"load-{seed}")
        print(row(name, calls, played, times, arguments), flush=True)


if __name__ == "__main__":
    main()
