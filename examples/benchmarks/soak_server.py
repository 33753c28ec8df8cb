"""A server of the tiny checkpoint under clients that mean no good, and what it answers: a table.

    python examples/benchmarks/soak_server.py --seconds 60 [--redis redis-server]

Calls go on turn by turn, each by a client of its own; meanwhile others send bombs, session descriptions, noise, half
of a body, a body byte by byte, and streams of broken messages or of none, and the server is killed and started again.
With `--redis` states lie in a Redis server that is started here, and it, too, is killed and started again.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect


ROOT = Path(__file__).resolve().parents[2]
TURN = next((ROOT / "examples" / "quickstart" / "conversation").glob("turn_*.wav")).read_bytes()
HEAD = b"POST /conversations/slow/turns HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"


def bomb() -> bytes:
    """A FLAC of ten minutes of silence that declares one second."""
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 600 * 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    data = bytearray(file.getvalue())
    data[22:26] = struct.pack(">I", 16_000)
    return bytes(data)


class Process:
    """A command that is killed and started again."""

    def __init__(self, command: list[str], port: int):
        self.command, self.port, self.starts = command, port, 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.starts += 1
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"{self.command} ended with exit code {self.process.returncode} and never listened.")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def peak_megabytes(self) -> float:
        """The most memory that was resident since the last start."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Soak:
    """The clients, and what they were answered.

    Args:
        port: of the server.
    """

    def __init__(self, port: int):
        self.port, self.ends = port, False
        self.answers: Counter[tuple[str, str]] = Counter()
        self.broken: list[str] = []

    def post(self, kind: str, name: str, body: bytes) -> dict | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            connection.request("POST", f"/conversations/{name}/turns", body, {"Content-Type": "audio/wav"})
            answer = connection.getresponse()
            content = answer.read()
            self.answers[kind, str(answer.status)] += 1
            return json.loads(content) if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            self.answers[kind, "no answer"] += 1
            time.sleep(0.2)
            return None
        finally:
            connection.close()

    def call(self, name: str) -> None:
        """Turns of one call; each is the next one, or says that the history was lost."""
        expected = 0
        while not self.ends:
            turn = self.post("good turn", name, TURN)
            if turn is None:
                continue
            if not 0 <= turn["score"] <= 1:
                self.broken.append(f"{name}: a score of {turn['score']}")
            if turn["turn_index"] < expected and not turn["history_lost"]:
                self.broken.append(f"{name}: turn {turn['turn_index']} after {expected - 1}, without a word")
            expected = turn["turn_index"] + 1

    def hostile(self, kind: str, body: bytes) -> None:
        place = 0
        while not self.ends:
            self.post(kind, f"{kind}-{place}".replace(" ", "-"), body)
            place += 1
            time.sleep(0.05)

    def half_a_body(self) -> None:
        while not self.ends:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                    client.sendall(HEAD + TURN[:1000])
                    time.sleep(0.5)
                self.answers["half a body", "went away"] += 1
            except OSError:
                self.answers["half a body", "no answer"] += 1
                time.sleep(0.2)

    def byte_by_byte(self) -> None:
        while not self.ends:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as client:
                    client.sendall(HEAD)
                    answer = self._after_bytes(client)
                self.answers["byte by byte", answer] += 1
            except OSError:
                self.answers["byte by byte", "no answer"] += 1
                time.sleep(0.2)

    def _after_bytes(self, client: socket.socket) -> str:
        """The status of the answer that comes while bytes are sent, half a second after each other."""
        while not self.ends:
            client.sendall(b"R")
            try:
                answer = client.recv(1000)
                return answer.split()[1].decode() if answer else "no answer"
            except TimeoutError:
                continue
        return "went on"

    def stream(self, kind: str, message: str | None) -> None:
        """A WebSocket over which a message is sent again and again, or none."""
        while not self.ends:
            try:
                with connect(f"ws://127.0.0.1:{self.port}/conversations/{kind.split()[0]}/stream") as stream:
                    while not self.ends:
                        if message is None:
                            time.sleep(0.5)
                            stream.ping()
                        else:
                            stream.send(message)
                            self.answers[kind, "error" if "error" in json.loads(stream.recv(30)) else "turn"] += 1
            except ConnectionClosed as closed:
                self.answers[kind, "no answer" if closed.rcvd is None else f"closed, {closed.rcvd.code}"] += 1
            except (OSError, InvalidHandshake):
                self.answers[kind, "no answer"] += 1
                time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=60, help="seconds to run, without the time for starting the server"
    )
    parser.add_argument("--kill-every", type=float, default=15, help="seconds between two kills of the server")
    parser.add_argument("--calls", type=int, default=4, help="number of simultaneous calls")
    parser.add_argument("--redis", help="command that starts a Redis server, such as redis-server")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        states, redis = folder, None
        if arguments.redis:
            port = free_port()
            options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes"]
            redis = Process([arguments.redis, *options], port)
            states = f"redis://127.0.0.1:{port}/0"
        port = free_port()
        command = [sys.executable, "-m", "titans_mal.cli", "serve", "--port", str(port), "--states", states]
        server, soak = Process(command, port), Soak(port)
        clients = [threading.Thread(target=soak.call, args=(f"call-{i}",)) for i in range(arguments.calls)]
        for kind, body in {"bomb": bomb(), "sdp": SDP, "noise": bytes(range(256)) * 100}.items():
            clients.append(threading.Thread(target=soak.hostile, args=(kind, body)))
        for kind, message in {"deep JSON in a stream": "[" * 100_000, "silent stream": None}.items():
            clients.append(threading.Thread(target=soak.stream, args=(kind, message)))
        clients += [threading.Thread(target=client) for client in (soak.half_a_body, soak.byte_by_byte)]
        for client in clients:
            client.start()
        left, peak = arguments.seconds, 0.0
        while left > 0:
            time.sleep(min(left, arguments.kill_every))
            left -= arguments.kill_every
            peak = max(peak, server.peak_megabytes)
            if left > 0:
                for process in filter(None, (server, redis)):
                    process.kill()
                for process in filter(None, (redis, server)):
                    process.start()
        soak.ends = True
        for client in clients:
            client.join()
        server.process.send_signal(signal.SIGTERM)
        stopped = server.process.wait(timeout=120)
        if redis is not None:
            redis.kill()
    print("| sent | answered | times |\n| --- | --- | --- |")
    for (kind, answer), count in sorted(soak.answers.items()):
        print(f"| {kind} | {answer} | {count} |")
    print(
        f"\n{server.starts} starts, at most {peak:.0f} MB resident, exit code {stopped}; "
        f"broken promises: {len(soak.broken)}"
    )
    for line in soak.broken:
        print(f"- {line}")


if __name__ == "__main__":
    main()
