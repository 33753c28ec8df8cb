"""A client of the server, REST and stream: send a file as a turn, then as a stream, and print the answers.

pip install httpx websockets
TITANS_MAL_TOKEN=secret python examples/serving/client.py turn.wav --url http://localhost:8000 --conversation call-17
"""

import argparse
import json
import os
import wave
from urllib.parse import quote

import httpx
from websockets.sync.client import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="a WAV file of 16-bit integers")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--conversation", default="call-17")
    parser.add_argument("--speaker", default="caller")
    given = parser.parse_args()
    token = os.environ.get("TITANS_MAL_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address, query = f"{given.url}/conversations/{quote(given.conversation, safe='')}", {"speaker": given.speaker}
    with open(given.file, "rb") as audio:
        answer = httpx.post(f"{address}/turns", params=query, files={"audio": audio}, headers=headers, timeout=60)
    print(json.dumps(answer.raise_for_status().json()))

    with wave.open(given.file) as audio:
        query |= {"sampling_rate": audio.getframerate(), "channels": audio.getnchannels()}
        pieces = iter(lambda: audio.readframes(audio.getframerate() // 10), b"")
        stream = f"{address}/stream?{httpx.QueryParams(query)}".replace("http", "ws", 1)
        with connect(stream, additional_headers=headers) as connection:
            for piece in pieces:  # of a microphone, as it is recorded
                connection.send(piece)
            connection.send(json.dumps({"end": True}))
            for answer in connection:  # until the server closes the stream
                print(answer)


if __name__ == "__main__":
    main()
