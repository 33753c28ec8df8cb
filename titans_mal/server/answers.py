"""What the server answers; pydantic makes the JSON Schema of each."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from ..live.summary import SpeakerSummary
from ..live.turns import TurnEmotion


@dataclass(frozen=True, kw_only=True)
class TurnAnswer(TurnEmotion):
    """A turn of a conversation.

    Attributes:
        conversation: its name.
        cut_seconds: of the turn's end that the model did not process.
        padded_seconds: of silence that the turn was filled up with, to the shortest that the model takes.
        stages: seconds of each stage, where they were asked for by `debug`.
    """

    conversation: str
    cut_seconds: float = 0.0
    padded_seconds: float = 0.0
    stages: dict[str, float] | None = None


def turn_answer(
    conversation: str, turn: TurnEmotion, *, min_seconds: float, stages: dict[str, float] | None = None
) -> TurnAnswer:
    """The answer to a turn.

    Args:
        min_seconds: the shortest turn that the model takes.
        stages: seconds of each stage; None: they are not answered.
    """
    seconds = turn.end - turn.start
    processed = seconds if turn.processed_seconds is None else turn.processed_seconds
    # Differences of times have a rounding error.
    cut, padded = (round(max(0.0, missing), 3) for missing in (seconds - processed, min_seconds - seconds))
    return TurnAnswer(**asdict(turn), conversation=conversation, cut_seconds=cut, padded_seconds=padded, stages=stages)


@dataclass(frozen=True)
class ErrorAnswer:
    """Why a request was not answered; `request_id` is in the server's log."""

    detail: str
    request_id: str | None = None


@dataclass(frozen=True)
class TurnError:
    """Why a turn of several was not scored; in a stream, why a message or a turn changed nothing."""

    error: str


@dataclass(frozen=True)
class TurnList:
    """The turns of a file with a talker on each channel, in the order of their ends."""

    conversation: str
    turns: list[TurnAnswer]
    errors: list[TurnError] = field(default_factory=list)


@dataclass(frozen=True)
class ConversationName:
    name: str


@dataclass(frozen=True)
class ConversationPage:
    """Conversations in the order of their names; `next` is the `after` of the next page, None on the last."""

    conversations: list[ConversationName]
    next: str | None = None


@dataclass(frozen=True)
class ConversationSummary:
    """What a conversation was like so far, by speaker; `time_constant` is that of the moods, in seconds."""

    conversation: str
    turns: int
    time_constant: float
    speakers: list[SpeakerSummary]


@dataclass(frozen=True)
class Health:
    status: Literal["ok"]
    version: str
