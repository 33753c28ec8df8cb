"""Made-up conversations in which an emotion is a change relative to the speaker's own voice.

A source-filter voice: a train of glottal pulses with the speaker's tilt and breath, shaped by the formants of random
vowels that the speaker's vocal-tract length scales. Nothing but pitch and loudness tells the emotion, and only against
what is usual for the speaker.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from datasets import Dataset
from scipy.io import wavfile
from scipy.signal import lfilter

from .table import conversation_table


SAMPLING_RATE = 16_000
EMOTIONS = ("neutral", "happy", "sad", "angry")
# What `load_conversations` makes by name: the conversations of each split.
SUITES = {
    "synthetic-baseline": {
        "train": {"num_conversations": 200, "seed": 1},
        "test": {"num_conversations": 50, "seed": 0},
    }
}
# What an emotion does to the speaker's usual pitch (factor) and level (dB).
PITCH_FACTORS = {"neutral": 1.0, "happy": 1.3, "sad": 0.78, "angry": 1.3}
LEVEL_CHANGES = {"neutral": 0.0, "happy": 0.0, "sad": -6.0, "angry": 8.0}

# Speakers: the spread (standard deviation) of log pitch and of level in dB, and each turn's own scatter of both.
PITCH_MEDIAN, PITCH_SPREAD, PITCH_SCATTER = 140.0, 0.30, 0.04
LEVEL_MEAN, LEVEL_SPREAD, LEVEL_SCATTER = -36.0, 6.0, 1.2
# Noise of the recording, in dB against the vowels; drawn for each turn.
NOISE_FLOOR = (-70.0, -40.0)

# First three formants of an adult male voice in Hz (Peterson and Barney 1952, table II).
_VOWELS = ((270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440),
           (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (640, 1190, 2390), (490, 1350, 1690))  # fmt: skip
_FORMANT_BANDWIDTHS = (80.0, 100.0, 140.0, 250.0)


@dataclass(frozen=True)
class Speaker:
    """A voice: usual `pitch` in Hz and `level` in dB of full scale, and what tells it from others.

    Attributes:
        tract: vocal-tract length relative to an adult male's, which divides the formants.
        tilt: pole of the glottal low-pass, 0 (bright) to 1 (dull).
        breath: level of noise relative to the voice.
        rate: syllables a second.
        intonation: how far the pitch moves within a turn, in log units.
    """

    pitch: float
    level: float
    tract: float
    tilt: float
    breath: float
    rate: float
    intonation: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Speaker:
        """A random speaker; pitch, level and the voice are independent of each other."""
        return cls(
            pitch=PITCH_MEDIAN * np.exp(PITCH_SPREAD * rng.standard_normal()),
            level=LEVEL_MEAN + LEVEL_SPREAD * rng.standard_normal(),
            tract=rng.uniform(0.75, 1.1),
            tilt=rng.uniform(0.5, 0.97),
            breath=rng.uniform(0.005, 0.08),
            rate=rng.uniform(3.5, 6.0),
            intonation=rng.uniform(0.03, 0.16),
        )

    def usual(self, emotion: str) -> tuple[float, float]:
        """Pitch (Hz) and level (dB of full scale) that the speaker has in an emotion, before each turn's scatter."""
        return self.pitch * PITCH_FACTORS[emotion], self.level + LEVEL_CHANGES[emotion]

    def speak(self, emotion: str, rng: np.random.Generator, *, seconds: float | None = None) -> np.ndarray:
        """One utterance.

        Args:
            emotion: one of `EMOTIONS`.
            rng: source of its vowels, contour and scatter.
            seconds: length; None draws 1.0 to 2.2 s.

        Returns:
            (samples,) float32 at `SAMPLING_RATE`.
        """
        samples = int(SAMPLING_RATE * (rng.uniform(1.0, 2.2) if seconds is None else seconds))
        pitch, level = self.usual(emotion)
        pitch *= np.exp(PITCH_SCATTER * rng.standard_normal())
        level += LEVEL_SCATTER * rng.standard_normal()
        voice = _voice(self, pitch, samples, rng)
        rms = np.sqrt(np.mean(voice**2))
        return np.clip(voice / rms * 10 ** (level / 20), -1, 1).astype(np.float32)


def _voice(speaker: Speaker, pitch: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Source times filter, syllable by syllable, between two short silences; of any level."""
    phase = np.cumsum(pitch * _intonation(speaker, samples, rng) / SAMPLING_RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    source = lfilter([1.0], [1.0, -speaker.tilt], pulses)
    source = source - source.mean() + speaker.breath * rng.standard_normal(samples)

    voice = np.zeros(samples)
    first, last = (int(SAMPLING_RATE * rng.uniform(0.0, 0.12)) for _ in range(2))
    syllables = max(1, round(speaker.rate * (samples - first - last) / SAMPLING_RATE))
    bounds = np.linspace(first, samples - last, syllables + 1).astype(int)
    for start, end in pairwise(bounds):
        onset = start + int((end - start) * rng.uniform(0.0, 0.4))
        voice[start:onset] = _consonant(speaker, onset - start, rng)
        voice[onset:end] = _vowel(speaker, source[onset:end], rng)
    floor = 10 ** (rng.uniform(*NOISE_FLOOR) / 20)
    return voice + floor * rng.standard_normal(samples)


def _intonation(speaker: Speaker, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,), the pitch over its mean: slow waves around a line that falls, as in statements."""
    time = np.arange(samples) / SAMPLING_RATE
    waves = sum(np.sin(2 * np.pi * (rng.uniform(low, 2 * low) * time + rng.uniform())) for low in (0.6, 1.5))
    contour = np.exp(speaker.intonation * (0.7 * waves - 1.2 * (time - time.mean())))
    return contour / contour.mean()


def _vowel(speaker: Speaker, source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random vowel of the speaker's vocal tract, of level 0 dB before it fades in and out."""
    formants = np.array([*_VOWELS[rng.integers(len(_VOWELS))], 3500.0]) / speaker.tract
    for frequency, bandwidth in zip(formants, _FORMANT_BANDWIDTHS):
        source = lfilter(*_resonator(frequency, bandwidth), source)
    return source / (np.sqrt(np.mean(source**2)) + 1e-9) * _fade(len(source)) * rng.uniform(0.7, 1.0)


def _consonant(speaker: Speaker, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A closure (silence) or a fricative: noise around 2.5 to 6.5 kHz, weaker than the vowels."""
    if rng.uniform() < 0.5:
        return np.zeros(samples)
    frequency = rng.uniform(2500, 6500) / speaker.tract
    noise = lfilter(*_resonator(frequency, 1500.0), rng.standard_normal(samples))
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-9) * _fade(samples) * rng.uniform(0.05, 0.4) if samples else noise


def _fade(samples: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(samples) + 0.5) / samples) ** 0.5


def _resonator(frequency: float, bandwidth: float) -> tuple[list[float], list[float]]:
    radius = np.exp(-np.pi * bandwidth / SAMPLING_RATE)
    angle = 2 * np.pi * min(frequency, 0.45 * SAMPLING_RATE) / SAMPLING_RATE
    return [1.0 - radius], [1.0, -2 * radius * np.cos(angle), radius**2]


def draw_conversation(
    rng: np.random.Generator,
    *,
    turns: int = 8,
    speakers: tuple[Speaker, Speaker] | None = None,
    introduced: bool = True,
) -> list[dict]:
    """Turns of two speakers; emotions and talkers are drawn evenly.

    Args:
        rng: source of all that is random.
        turns: how many.
        speakers: None draws two.
        introduced: the first two turns are neutral, one of each speaker.

    Returns:
        One dict a turn: `speaker` ("A", "B"), `emotion`, `waveform` (float32 at `SAMPLING_RATE`), `start`, `end` (s).
    """
    voices = dict(zip("AB", speakers or (Speaker.draw(rng), Speaker.draw(rng))))
    conversation, clock = [], 0.0
    for index in range(turns):
        is_introduction = introduced and index < 2
        name = "AB"[index] if is_introduction else "AB"[rng.integers(2)]
        emotion = "neutral" if is_introduction else EMOTIONS[rng.integers(len(EMOTIONS))]
        waveform = voices[name].speak(emotion, rng)
        end = clock + len(waveform) / SAMPLING_RATE
        conversation.append({"speaker": name, "emotion": emotion, "waveform": waveform, "start": clock, "end": end})
        clock = end + 0.3
    return conversation


def synthetic_conversations(num_conversations: int, *, seed: int, turns: int = 8) -> Dataset:
    """Made-up conversations in the columns of `load_conversations`.

    Args:
        num_conversations: how many.
        seed: the same seed gives the same sound.
        turns: of each conversation.

    Returns:
        A dataset with one row a turn; `audio` holds 16 kHz WAV bytes, not decoded.
    """

    def rows():
        for number in range(num_conversations):
            name = f"synthetic_{seed}_{number:04d}"
            conversation = draw_conversation(np.random.default_rng((seed, number)), turns=turns)
            for index, turn in enumerate(conversation):
                yield {
                    "conversation_id": name,
                    "turn_index": index,
                    "speaker": turn["speaker"],
                    "audio": {"path": f"{name}_t{index:02d}_{turn['speaker']}.wav", "bytes": to_wav(turn["waveform"])},
                    "emotion": EMOTIONS.index(turn["emotion"]),
                    "start": turn["start"],
                    "end": turn["end"],
                    "seconds": turn["end"] - turn["start"],
                }

    table = conversation_table(list(rows()), EMOTIONS)
    table.info.dataset_name, table.info.config_name = "synthetic-baseline", f"seed {seed}"
    return table


def to_wav(waveform: np.ndarray) -> bytes:
    """(samples,) float in [-1, 1] at `SAMPLING_RATE` as 16-bit WAV."""
    buffer = io.BytesIO()
    wavfile.write(buffer, SAMPLING_RATE, np.round(waveform * 32767).astype(np.int16))
    return buffer.getvalue()


def best_accuracy_from_utterance(*, samples: int = 200_000, seed: int = 0) -> float:
    """Accuracy of the best possible listener who hears one utterance and knows its pitch and level exactly.

    Simulated: given the emotion, log pitch and level are normal, so the most probable emotion is known in closed form.
    """
    rng = np.random.default_rng(seed)
    means = np.array([[np.log(PITCH_FACTORS[emotion]), LEVEL_CHANGES[emotion]] for emotion in EMOTIONS])
    spread = np.array([np.hypot(PITCH_SPREAD, PITCH_SCATTER), np.hypot(LEVEL_SPREAD, LEVEL_SCATTER)])
    emotions = rng.integers(len(EMOTIONS), size=samples)
    heard = means[emotions] + spread * rng.standard_normal((samples, 2))
    distances = (((heard[:, None] - means) / spread) ** 2).sum(-1)
    return float((distances.argmin(1) == emotions).mean())
