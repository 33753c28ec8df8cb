"""The WebSocket's protocol as an AsyncAPI document, and in words for `/docs`."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from .._version import __version__
from .answers import TurnAnswer, TurnError
from .queries import StreamQuery
from .stream_messages import message_schema


PROTOCOL = """
**Streams.** The WebSocket `/conversations/{name}/stream` receives the audio of a call, and answers each turn when it
ends. `/asyncapi.json` contains the schema of every message. The query parameters are those of a turn except `start`
and `reset`, and also `sampling_rate` (default: 16000).

The client sends

- audio as binary messages of up to 4 MB: 16-bit integers, little-endian. The samples of several channels
  (`channels=2`, `speakers=caller,agent`) are interleaved;
- `{"speaker": "B"}`: ends the open turn; the following audio is spoken by B. Add `"person": "ID"` to identify B across
  calls. Only for one channel;
- `{"sampling_rate": 8000}`: sampling rate of the following audio, in Hz;
- `{"end": true}`: ends the open turns, and then the stream.

The server answers each turn as `POST` does. It answers `{"error": "..."}` to a message or a turn that cannot be used,
which then changes nothing. It closes the stream with one of these codes, and a reason:

- 1000: the client sent `end`, and all turns are answered;
- 1008: a parameter cannot be used, such as a label that the model does not have; the stored conversation is broken;
  the client sent nothing for a minute; or the stream was open for an hour (both times are settings of the server);
- 1009: a message is larger than 4 MB;
- 1012: the server stops, and has answered the open turns;
- 1013: states cannot be read, or the server accepts no turns because it is closing: try again later.

A stream that is rejected before it opens has an HTTP status instead: 422 for an unknown or invalid parameter; 403 if
the token is missing or wrong, a parameter is repeated or not UTF-8, or too many streams are open.
"""


def asyncapi() -> dict[str, Any]:
    """The document, by AsyncAPI 3.0."""
    schemas = {
        "turn": TypeAdapter(TurnAnswer).json_schema(),
        "error": TypeAdapter(TurnError).json_schema(),
        "control": message_schema(),
    }
    messages: dict[str, Any] = {
        name: {"contentType": "application/json", "payload": schema} for name, schema in schemas.items()
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
