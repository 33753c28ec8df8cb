"""Messages of a stream: the published schema and the server accept the same ones."""

import json

import jsonschema
import pytest

from titans_mal.server.asyncapi import asyncapi
from titans_mal.server.stream_messages import read_message


SCHEMA = asyncapi()["channels"]["stream"]["messages"]["control"]["payload"]


@pytest.mark.parametrize(
    "message",
    [
        {"speaker": "B"},
        {"speaker": None},
        {"speaker": "x" * 200},
        {"speaker": "B", "person": "customer 7"},
        {"speaker": "B", "person": None},
        {"sampling_rate": 1000},
        {"sampling_rate": 768_000},
        {"speaker": "B", "sampling_rate": 8000, "end": True},
        {"end": True},
        {"end": False},
    ],
)
def test_a_message_that_fits_the_schema_is_accepted(message):
    jsonschema.validate(message, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert read_message(json.dumps(message)) == message


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({}, "it is empty"),
        ([], "valid dictionary"),
        (None, "valid dictionary"),
        ("end", "valid dictionary"),
        ({"volume": 11}, r"may hold speaker, person, sampling_rate, end\): volume: Extra inputs are not permitted"),
        ({"speaker": 5}, "speaker: Input should be a valid string"),
        ({"speaker": "x" * 201}, "speaker: String should have at most 200 characters"),
        ({"person": "customer 7"}, "person must be sent in the same message as speaker"),
        ({"speaker": "B", "person": ""}, "person: String should have at least 1 character"),
        ({"sampling_rate": None}, "sampling_rate: Input should be a valid integer"),
        ({"sampling_rate": "8000"}, "sampling_rate: Input should be a valid integer"),
        ({"sampling_rate": True}, "sampling_rate: Input should be a valid integer"),
        ({"sampling_rate": 8000.5}, "sampling_rate: Input should be a valid integer"),
        ({"sampling_rate": 999}, "sampling_rate: Input should be greater than or equal to 1000"),
        ({"sampling_rate": 10**30}, "sampling_rate: Input should be less than or equal to 768000"),
        ({"end": None}, "end: Input should be a valid boolean"),
        ({"end": 1}, "end: Input should be a valid boolean"),
        ({"end": "true"}, "end: Input should be a valid boolean"),
    ],
)
def test_a_message_that_does_not_fit_the_schema_is_rejected(message, error):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(message, SCHEMA, cls=jsonschema.Draft202012Validator)
    with pytest.raises(ValueError, match=error):
        read_message(json.dumps(message))


def test_a_whole_number_with_a_decimal_point_is_an_integer_of_json():
    jsonschema.validate({"sampling_rate": 8000.0}, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert read_message('{"sampling_rate": 8000.0}') == {"sampling_rate": 8000}
    for text in ('{"sampling_rate": NaN}', '{"sampling_rate": 1e400}'):
        with pytest.raises(ValueError, match="sampling_rate: Input should be a valid integer"):
            read_message(text)


def test_what_no_schema_can_say_is_checked_too():
    for message, error in (
        ({"speaker": "\ud800"}, "speaker: Input should be a valid string, unable to parse"),
        ({"speaker": "B", "person": "unknown"}, "needs an ID that identifies them"),
    ):
        with pytest.raises(ValueError, match=error):
            read_message(json.dumps(message))
