"""The query parameters of each address; others are rejected by name.

Annotations are evaluated here, by pydantic.
"""

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
    """How labels are chosen; what is not given is as the server has it."""

    labels: str | None = Field(None, description="Choose among these alone: neutral,sad,...")
    unknown_below: float | None = Field(None, ge=0, le=1, description="A less probable label is 'unknown'.")
    temperature: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Divides the logits, in place of the model's own."
    )
    score: str | None = Field(
        None, description="Answer the emotion of these speakers alone: caller,...; others are written to the memory."
    )

    def label_settings(self, default: LabelSettings) -> LabelSettings:
        """The server's settings, but for what was given."""
        given: dict[str, Any] = self.model_dump(
            include={"labels", "unknown_below", "temperature", "score"}, exclude_none=True
        )
        given |= {name: _names(given[name]) for name in ("labels", "score") if name in given}
        return replace(default, **given)


class ChannelQuery(LabelQuery):
    """Who talks: one speaker, or one on each channel."""

    speaker: Speaker = Field(None, description="Who talks, in mono audio.")
    channels: int = Field(1, ge=1, le=_MOST_CHANNELS, description="Of the audio, each with a talker of its own.")
    speakers: str | None = Field(None, description="Who talks on each channel: caller,agent.")
    debug: bool = Field(False, description="Answer the seconds of each stage of a turn.")

    @model_validator(mode="after")
    def _talkers(self):
        names = self.channel_speakers
        if self.channels > 1 and (len({*names} - {""}) != self.channels or len(names) != self.channels):
            raise ValueError(
                f"speakers name who talks on each of {self.channels} channels, all different: caller,agent."
            )
        if self.channels > 1 and self.speaker is not None:
            raise ValueError("speaker is of mono audio; of several channels give speakers.")
        if self.channels == 1 and self.speakers is not None:
            raise ValueError("speakers are of several channels: give channels=2, or speaker.")
        if any(len(name) > 200 for name in names):
            raise ValueError("A speaker has a name of up to 200 characters.")
        return self

    @property
    def channel_speakers(self) -> list[str]:
        """Who talks on each of several channels."""
        return [] if self.speakers is None else _names(self.speakers)


class TurnQuery(ChannelQuery):
    start: float | None = Field(None, description="Seconds; None: as the turn before ends.")
    anew: bool = Field(False, description="Forget what was said so far.")


class StreamQuery(ChannelQuery):
    sampling_rate: int = 16_000


class PageQuery(NoQuery):
    limit: int = Field(100, ge=1, le=1000, description="Names on a page.")
    after: str | None = Field(None, max_length=200, description="The last name of the page before.")


class SummaryQuery(NoQuery):
    time_constant: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Seconds of the exponential mean that is the rolling mood."
    )


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",")]
