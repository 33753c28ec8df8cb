"""The WebSocket's protocol as an AsyncAPI document, and in words for `/docs`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from .._version import __version__
from .answers import TurnAnswer, TurnError
from .queries import StreamQuery


PROTOCOL = """
**Streams.** The WebSocket `/conversations/{name}/stream` takes the audio of a call and answers each turn when it ends;
`/asyncapi.json` describes it with the schema of every message. Its query parameters are those of a turn, and
`sampling_rate` (16000). The client sends

- binary messages: pieces of 16-bit integers, little-endian, of up to 4 MB; of several channels (`channels=2`,
  `speakers=caller,agent`) interleaved;
- `{"speaker": "B"}`: who talks from here on, of one channel; the turn that goes on ends. With `"person": "ID"`, who B
  is in all calls;
- `{"sampling_rate": 8000}`: of what follows;
- `{"end": true}`: the last turns end; the server answers them and closes.

The server answers each turn as `POST` does, and `{"error": "..."}` where a message or a turn cannot be used, which
changes nothing. It closes with 1000 after `end`, with 1012 where it stops (after the answers to the open turns), with
1008 where the token is missing, nothing came for a minute, the stream was open for too long or its settings are wrong,
and with 1013 where it can take no more or states cannot be read: later it may. Unknown or wrong parameters are a 422
before it opens.
"""


class StreamMessage(BaseModel):
    """A message of the client about the audio that follows."""

    model_config = ConfigDict(extra="forbid")

    speaker: str | None = Field(None, max_length=200)
    person: str | None = Field(None, max_length=200)
    sampling_rate: int | None = Field(None, ge=1000, le=768_000)
    end: bool | None = None


def asyncapi() -> dict[str, Any]:
    """The document, by AsyncAPI 3.0."""
    schemas = {"turn": TurnAnswer, "error": TurnError, "control": StreamMessage}
    messages: dict[str, Any] = {
        name: {"contentType": "application/json", "payload": TypeAdapter(schema).json_schema()}
        for name, schema in schemas.items()
    }
    messages["audio"] = {
        "contentType": "application/octet-stream",
        "payload": {
            "type": "string",
            "format": "binary",
            "description": "16-bit integers, little-endian, up to 4 MB.",
        },
    }
    channel = "#/channels/stream"
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "titans_mal", "version": __version__, "description": PROTOCOL.strip()},
        "channels": {
            "stream": {
                "address": "/conversations/{name}/stream",
                "parameters": {"name": {"description": "Of the conversation, up to 200 characters."}},
                "bindings": {"ws": {"method": "GET", "query": StreamQuery.model_json_schema()}},
                "messages": messages,
            }
        },
        "operations": {
            "send": _operation("receive", channel, "audio", "control"),
            "answer": _operation("send", channel, "turn", "error"),
        },
    }


def _operation(action: str, channel: str, *messages: str) -> dict[str, Any]:
    """The operation of the server on messages of a channel."""
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in messages],
    }
