"""A client of the server, REST and stream: send a file as a turn, then as a stream, and print the answers.

pip install websockets
TITANS_MAL_TOKEN=secret python examples/serving/client.py turn.wav --url http://localhost:8000 --conversation call-17
"""

import argparse
import json
import os
import sys
import wave
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect


def send_turn(address: str, file: Path, headers: dict[str, str], **query) -> dict:
    """Send an audio file as the next turn; the server's answer."""
    request = Request(
        f"{address}/turns?{urlencode(query)}", file.read_bytes(), {"Content-Type": "audio/wav", **headers}
    )
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def stream_turns(address: str, file: Path, headers: dict[str, str], **query) -> None:
    """Send a mono WAV file piece by piece, as from a microphone, and print the answers."""
    with wave.open(str(file)) as audio:
        if (audio.getnchannels(), audio.getsampwidth()) != (1, 2):
            raise ValueError(f"{file} is not a mono WAV file of 16-bit integers, which the stream needs.")
        query["sampling_rate"] = audio.getframerate()
        pieces = iter(lambda: audio.readframes(audio.getframerate() // 10), b"")
        stream = f"{address}/stream?{urlencode(query)}".replace("http", "ws", 1)
        with connect(stream, additional_headers=headers) as connection:
            for piece in pieces:
                connection.send(piece)
            connection.send(json.dumps({"end": True}))
            for answer in connection:  # until the server closes the stream
                print(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a mono WAV file of 16-bit integers")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--conversation", default="call-17")
    parser.add_argument("--speaker", default="caller")
    given = parser.parse_args()
    token = os.environ.get("TITANS_MAL_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{given.url}/conversations/{quote(given.conversation, safe='')}"
    try:
        print(json.dumps(send_turn(address, given.file, headers, speaker=given.speaker)))
        stream_turns(address, given.file, headers, speaker=given.speaker)
    except HTTPError as error:
        sys.exit(f"The server refused the turn, with status {error.code}: {error.read().decode(errors='replace')}")
    except (OSError, ValueError, wave.Error, WebSocketException) as error:
        sys.exit(f"{given.file} could not be sent to {given.url}: {error}")


if __name__ == "__main__":
    main()
