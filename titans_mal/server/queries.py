"""Query parameters of each route; unknown ones are rejected by name.

Annotations are evaluated here, by pydantic.
"""

import warnings
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..live.label_settings import LabelSettings


_MOST_CHANNELS = 8

Speaker = Annotated[str | None, Field(max_length=200)]


class NoQuery(BaseModel):
    """No parameters."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: dict) -> dict:
        unknown = sorted({*given} - {*cls.model_fields})
        if unknown:
            shown = ", ".join(name[:40] for name in unknown[:5])
            raise ValueError(f"Unknown parameters {shown}; allowed are {', '.join(cls.model_fields) or 'none'}.")
        return given


class LabelQuery(NoQuery):
    """How labels are chosen; defaults are the server's."""

    labels: str | None = Field(None, description="Choose among these labels only: neutral,sad,...")
    unknown_below: float | None = Field(None, ge=0, le=1, description="Below this probability a label is 'unknown'.")
    temperature: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Divides the logits, instead of the model's temperature."
    )
    score: str | None = Field(
        None, description="Return only the emotions of these speakers: caller,...; all turns are written to memory."
    )

    def label_settings(self, default: LabelSettings) -> LabelSettings:
        """The server's settings with the given changes."""
        given: dict[str, Any] = self.model_dump(
            include={"labels", "unknown_below", "temperature", "score"}, exclude_none=True
        )
        given |= {name: _names(given[name]) for name in ("labels", "score") if name in given}
        return replace(default, **given)


class ChannelQuery(LabelQuery):
    """Speaker of mono audio, or speakers of the channels."""

    speaker: Speaker = Field(None, description="The speaker of mono audio.")
    channels: int = Field(1, ge=1, le=_MOST_CHANNELS, description="Number of channels, with one speaker each.")
    speakers: str | None = Field(None, description="The speaker on each channel: caller,agent.")
    person: str | None = Field(
        None,
        max_length=200,
        description="Who the speaker of mono audio is in all calls. Giving it is the speaker's consent that the next "
        "call continues this memory; DELETE /persons/ID ends it.",
    )
    persons: str | None = Field(
        None, description="The person on each channel, or nothing for who is not remembered: customer-7,"
    )
    debug: bool = Field(False, description="Include the seconds of each stage of a turn.")
    split_long: bool = Field(
        False, description="Score a turn longer than the host's window as several, cut at its pauses."
    )

    @model_validator(mode="after")
    def _speakers_of_channels(self):
        names = self.channel_speakers
        if self.channels > 1 and (len({*names} - {""}) != self.channels or len(names) != self.channels):
            raise ValueError(
                f"speakers must name a different speaker for each of {self.channels} channels, as in caller,agent."
            )
        if self.channels > 1 and self.speaker is not None:
            raise ValueError("speaker is allowed only for one channel: give speakers for several.")
        if self.channels == 1 and self.speakers is not None:
            raise ValueError("speakers is allowed only for several channels: give channels=2, or speaker.")
        persons = [] if self.persons is None else _names(self.persons)
        if any(len(name) > 200 for name in (*names, *persons)):
            raise ValueError("The name of a speaker or a person may have up to 200 characters.")
        if self.persons is not None and (self.channels == 1 or len(persons) != self.channels):
            raise ValueError(
                "persons needs several channels and one entry for each, which may be empty, as in customer-7, with a "
                "comma at the end for two channels."
            )
        if self.person is not None and self.channels > 1:
            raise ValueError("person is allowed only for one channel: give persons for several.")
        return self

    @property
    def channel_speakers(self) -> list[str]:
        """The speaker on each of several channels."""
        return [] if self.speakers is None else _names(self.speakers)

    @property
    def channel_persons(self) -> list[str | None]:
        """The person on each channel; None for a speaker who is not remembered."""
        if self.persons is None:
            return [self.person or None, *[None] * (self.channels - 1)]
        return [name or None for name in _names(self.persons)]


class TurnQuery(ChannelQuery):
    start: float | None = Field(None, description="Seconds. Default: the end of the previous turn.")
    reset: bool = Field(False, description="Start the conversation from scratch.")
    anew: bool = Field(False, description="Deprecated name of reset.", deprecated=True)

    @property
    def is_reset(self) -> bool:
        """Whether the conversation is to start from scratch, under either name."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return self.reset or self.anew


class StreamQuery(ChannelQuery):
    sampling_rate: int = 16_000


class PageQuery(NoQuery):
    limit: int = Field(100, ge=1, le=1000, description="Number of names on a page.")
    after: str | None = Field(None, max_length=200, description="The last name of the previous page.")


class SummaryQuery(NoQuery):
    time_constant: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Time constant of the rolling mood, in seconds."
    )


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",")]
