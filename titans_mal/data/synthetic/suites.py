"""Scripts of synthetic conversations: the speaker, emotion, pitch and level of each turn.

An emotion is a change of pitch and level relative to the speaker's usual ones. Six suites test different abilities of
a memory; `bayes_bound.py` computes the best possible accuracy, and `table.py` synthesises the audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .voices import Voice


EMOTIONS = ("neutral", "happy", "sad", "angry")
NEUTRAL = EMOTIONS.index("neutral")
# (emotions, 2): change of the speaker's usual pitch (log units) and level (dB) by each emotion.
EMOTION_CHANGES = np.array([[0.0, 0.0], [np.log(1.3), 0.0], [np.log(0.78), -6.0], [np.log(1.3), 8.0]])
# (2,), standard deviations of pitch (log units) and level (dB): between speakers, and between turns of a speaker.
SPEAKER_SPREAD = np.array([0.30, 6.0])
TURN_SCATTER = np.array([0.04, 1.2])


@dataclass(frozen=True)
class ScriptedTurn:
    """One turn before synthesis.

    Attributes:
        speaker: number within the conversation.
        emotion: index into `EMOTIONS`.
        pitch: pitch of this turn, in log units relative to the median of all speakers.
        level: level in dB relative to the mean of all speakers.
        is_whispered: pitch and level do not depend on the emotion, which is audible.
        is_introduction: the speaker's first turn, known to be neutral, which is not scored.
    """

    speaker: int
    emotion: int
    pitch: float
    level: float
    is_whispered: bool = False
    is_introduction: bool = False


@dataclass(frozen=True)
class Speaker:
    """A speaker: the usual `pitch` and `level`, as in `ScriptedTurn`, and the voice."""

    pitch: float
    level: float
    voice: Voice

    @classmethod
    def draw(cls, rng: np.random.Generator, *, spread: float = 1.0) -> Speaker:
        """A random speaker; pitch, level and voice are independent of each other."""
        pitch, level = spread * SPEAKER_SPREAD * rng.standard_normal(2)
        return cls(pitch, level, Voice.draw(rng))


@dataclass(frozen=True)
class Script:
    """A conversation before synthesis: its turns, and the voice of each speaker."""

    turns: list[ScriptedTurn]
    voices: list[Voice]


@dataclass(frozen=True)
class Suite:
    """Distribution of a kind of conversation.

    Attributes:
        name: name of the suite.
        order: draws the speakers: `(rng) -> [speaker of each turn]`.
        introduced: each speaker's first turn is neutral, and not scored.
        spread: spread of the speakers' usual pitch and level, in units of `SPEAKER_SPREAD`.
        drift: step of the random walk of a speaker's usual pitch and level from turn to turn, in the same units.
        stay: probability that the emotion is the same as in the previous turn; None: uniform.
        whispered: probability that a turn is whispered.

    Raises:
        ValueError: for persistent emotions together with different speakers, for which the bound is not known.
    """

    name: str
    order: Callable[[np.random.Generator], list[int]]
    introduced: bool = True
    spread: float = 1.0
    drift: float = 0.0
    stay: float | None = None
    whispered: float = 0.0

    def __post_init__(self):
        if self.stay is not None and (self.spread or self.drift):
            raise ValueError(f"With stay, spread and drift must be 0, got {self.spread} and {self.drift}.")

    def draw(self, rng: np.random.Generator, *, speakers: Sequence[Speaker] | None = None) -> Script:
        """Draw one conversation; with `speakers` of None, as many as `order` needs."""
        order = self.order(rng)
        if speakers is None:
            speakers = [Speaker.draw(rng, spread=self.spread) for _ in range(max(order) + 1)]
        usual = np.array([(speaker.pitch, speaker.level) for speaker in speakers])
        turns, met, emotion = [], set(), None
        for speaker in order:
            is_introduction = self.introduced and speaker not in met
            emotion = NEUTRAL if is_introduction else self._next_emotion(emotion, rng)
            if speaker in met:
                usual[speaker] += self.drift * SPEAKER_SPREAD * rng.standard_normal(2)
            is_whispered = bool(rng.uniform() < self.whispered)
            change = EMOTION_CHANGES[NEUTRAL if is_whispered else emotion]
            pitch, level = usual[speaker] + change + TURN_SCATTER * rng.standard_normal(2)
            turns.append(ScriptedTurn(speaker, emotion, pitch, level, is_whispered, is_introduction))
            met.add(speaker)
        return Script(turns, [speaker.voice for speaker in speakers])

    def _next_emotion(self, emotion: int | None, rng: np.random.Generator) -> int:
        if self.stay is not None and emotion is not None and rng.uniform() < self.stay:
            return emotion
        return int(rng.integers(len(EMOTIONS)))

    def next_emotion_probabilities(self) -> np.ndarray:
        """(emotions, emotions), transition probabilities from the emotion of one turn (rows) to that of the next."""
        even = np.full((len(EMOTIONS), len(EMOTIONS)), 1 / len(EMOTIONS))
        return even if self.stay is None else self.stay * np.eye(len(EMOTIONS)) + (1 - self.stay) * even


def baseline(*, turns: int = 8, spread: float = 1.0) -> Suite:
    """Two speakers, each neutral at first; then speakers and emotions are uniform.

    Args:
        turns: number of turns of a conversation.
        spread: spread of the speakers; the larger, the less informative an utterance is by itself.
    """

    def order(rng):
        return [0, 1, *rng.integers(2, size=turns - 2).tolist()]

    return Suite("baseline", order, spread=spread)


def interleaved(*, speakers: int = 2) -> Suite:
    """Several speakers in random order, each neutral in the first turn, with four turns each on average.

    Args:
        speakers: 2 to 8; more speakers mean more voices to keep apart.
    """
    if not 2 <= speakers <= 8:
        raise ValueError(f"speakers must be 2 to 8, got {speakers}.")

    def order(rng):
        drawn = rng.integers(speakers, size=4 * speakers).tolist()
        numbers = {speaker: number for number, speaker in enumerate(dict.fromkeys(drawn))}
        return [numbers[speaker] for speaker in drawn]

    return Suite(f"interleaved-{speakers}", order)


def emotional_start(*, turns: int = 12, drift: float = 0.1) -> Suite:
    """Two speakers without a turn known to be neutral, whose usual pitch and level drift.

    Args:
        turns: number of turns of a conversation.
        drift: change of the usual voice from turn to turn, relative to the spread of speakers.
    """
    return Suite("emotional-start", lambda rng: rng.integers(2, size=turns).tolist(), introduced=False, drift=drift)


def carry_over(*, turns: int = 12, whispered: float = 0.5, stay: float = 0.9) -> Suite:
    """The emotion persists for a while and not every turn shows it; all speakers have the same usual voice.

    Args:
        turns: number of turns of a conversation.
        whispered: probability that a turn does not show its emotion.
        stay: probability that the emotion is the same as in the previous turn.
    """
    return Suite(
        "carry-over",
        lambda rng: rng.integers(2, size=turns).tolist(),
        introduced=False,
        spread=0.0,
        stay=stay,
        whispered=whispered,
    )


def delayed_binding(*, delay: int = 8) -> Suite:
    """Each of `delay + 1` speakers begins neutral, and returns after exactly `delay` turns of others.

    Args:
        delay: number of turns, all of them written to the memory, between the two turns of a speaker.
    """
    return Suite(f"delayed-binding-{delay}", lambda rng: [*range(delay + 1), *range(delay + 1)])


def null(*, turns: int = 8) -> Suite:
    """Every turn has a new speaker: history is uninformative, and a memory should do no harm.

    Args:
        turns: number of turns of a conversation.
    """
    return Suite("null", lambda rng: list(range(turns)), introduced=False)


# By name: a function that makes a suite from keywords.
SUITES: dict[str, Callable[..., Suite]] = {
    "baseline": baseline,
    "interleaved": interleaved,
    "emotional-start": emotional_start,
    "carry-over": carry_over,
    "delayed-binding": delayed_binding,
    "null": null,
}
