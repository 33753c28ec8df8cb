"""The server's response models, from which pydantic makes JSON Schemas."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from ..live.summary import SpeakerSummary
from ..live.turns import TurnEmotion


@dataclass(frozen=True, kw_only=True)
class TurnAnswer(TurnEmotion):
    """A turn of a conversation.

    Attributes:
        conversation: its name.
        cut_seconds: length of the turn's end that was not processed.
        padded_seconds: length of the silence added to reach the model's minimum.
        stages: seconds of each stage, if requested by `debug`.
    """

    conversation: str
    cut_seconds: float = 0.0
    padded_seconds: float = 0.0
    stages: dict[str, float] | None = None


def turn_answer(
    conversation: str, turn: TurnEmotion, *, min_seconds: float, stages: dict[str, float] | None = None
) -> TurnAnswer:
    """The response for a turn.

    Args:
        min_seconds: the shortest turn that the model processes.
        stages: seconds of each stage; None: not included.
    """
    seconds = turn.end - turn.start
    processed = seconds if turn.processed_seconds is None else turn.processed_seconds
    # Differences of times have a rounding error.
    cut, padded = (round(max(0.0, missing), 3) for missing in (seconds - processed, min_seconds - seconds))
    return TurnAnswer(**asdict(turn), conversation=conversation, cut_seconds=cut, padded_seconds=padded, stages=stages)


@dataclass(frozen=True)
class ErrorAnswer:
    """Error response; `request_id` is in the server's log."""

    detail: str
    request_id: str | None = None


@dataclass(frozen=True)
class TurnError:
    """Error of one of several turns; in a stream, of a message or turn, which then changes nothing."""

    error: str


@dataclass(frozen=True)
class TurnList:
    """The turns of a file that holds several, as with one speaker per channel, in the order of their ends."""

    conversation: str
    turns: list[TurnAnswer]
    errors: list[TurnError] = field(default_factory=list)


@dataclass(frozen=True)
class ConversationName:
    name: str


@dataclass(frozen=True)
class ConversationPage:
    """Names of conversations in order; `next` is the `after` of the next page, None on the last."""

    conversations: list[ConversationName]
    next: str | None = None


@dataclass(frozen=True)
class ConversationSummary:
    """Summary of a conversation by speaker; `time_constant` is that of the moods, in seconds."""

    conversation: str
    turns: int
    time_constant: float
    speakers: list[SpeakerSummary]


@dataclass(frozen=True)
class Health:
    status: Literal["ok"]
    version: str
