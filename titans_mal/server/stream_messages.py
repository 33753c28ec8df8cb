"""Messages of the client of a stream: their only declaration, for validation and for `/asyncapi.json`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..live.remembered_speakers import check_person
from ..modeling.audio_checks import MAX_RATE, MIN_RATE
from ..modeling.json_text import parse_json
from ..modeling.turn_rules import MAX_NAME
from .errors import in_one_line


def _checked_person(person: str | None) -> str | None:
    if person is not None:
        check_person(person)
    return person


def _checked_fields(message: StreamMessage) -> StreamMessage:
    """The rules `minProperties` and `dependentRequired` of the schema, which pydantic writes but does not apply."""
    if not message:
        raise ValueError("it is empty")
    if "person" in message and "speaker" not in message:
        raise ValueError("person must be sent in the same message as speaker")
    return message


class StreamMessage(TypedDict, total=False):
    """Settings of the audio that follows, or the end of the stream; a field that is missing changes nothing."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        strict=True,
        json_schema_extra={"minProperties": 1, "dependentRequired": {"person": ["speaker"]}},
    )

    speaker: Annotated[
        str | None,
        Field(max_length=MAX_NAME, description="Ends the open turn; the following audio is spoken by this speaker."),
    ]
    person: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_NAME, description="ID of the speaker in all calls; only with speaker."),
        AfterValidator(_checked_person),
    ]
    sampling_rate: Annotated[
        int,
        Field(ge=MIN_RATE, le=MAX_RATE, description="Sampling rate of the following audio, in Hz."),
        # In JSON, 8000.0 is an integer.
        BeforeValidator(lambda rate: int(rate) if isinstance(rate, float) and rate.is_integer() else rate),
    ]
    end: Annotated[bool, Field(description="True ends the stream, after the answers to the open turns.")]


_MESSAGE: TypeAdapter[StreamMessage] = TypeAdapter(Annotated[StreamMessage, AfterValidator(_checked_fields)])


def message_schema() -> dict[str, Any]:
    """The JSON Schema of a message."""
    return _MESSAGE.json_schema()


def read_message(text: str) -> StreamMessage:
    """A message from its JSON.

    Raises:
        ValueError: for invalid JSON, or JSON that is no such message.
    """
    try:
        return _MESSAGE.validate_python(parse_json(text, "The message"))
    except ValidationError as error:
        allowed = ", ".join(StreamMessage.__annotations__)
        raise ValueError(f"The message cannot be used (it may hold {allowed}): {in_one_line(error)}") from None
