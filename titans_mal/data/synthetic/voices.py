"""Synthetic voices, each a source-filter model: glottal pulses with the speaker's tilt and breath, shaped by the
formants of random vowels, which the speaker's vocal-tract length scales.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.io import wavfile
from scipy.signal import lfilter


SAMPLING_RATE = 16_000
# Pitch and level of a speaker with the median voice: Hz, and dBFS.
PITCH_MEDIAN, LEVEL_MEAN = 140.0, -36.0
# Recording noise, in dB relative to the vowels; drawn for each turn.
NOISE_FLOOR = (-70.0, -40.0)

# First three formants of an adult male voice in Hz (Peterson and Barney 1952, table II).
_VOWELS = ((270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440),
           (570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (640, 1190, 2390), (490, 1350, 1690))  # fmt: skip
_FORMANT_BANDWIDTHS = (80.0, 100.0, 140.0, 250.0)


@dataclass(frozen=True)
class Voice:
    """Properties that distinguish a speaker, beside the usual pitch and level.

    Attributes:
        tract: vocal-tract length relative to an adult male's, which divides the formants.
        tilt: pole of the glottal low-pass, 0 (bright) to 1 (dull).
        breath: level of noise relative to the voice.
        rate: syllables per second.
        intonation: how far the pitch moves within a turn, in log units.
    """

    tract: float
    tilt: float
    breath: float
    rate: float
    intonation: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Voice:
        """A random voice."""
        return cls(
            tract=rng.uniform(0.75, 1.1),
            tilt=rng.uniform(0.5, 0.97),
            breath=rng.uniform(0.005, 0.08),
            rate=rng.uniform(3.5, 6.0),
            intonation=rng.uniform(0.03, 0.16),
        )

    def speak(
        self,
        pitch: float,
        level: float,
        rng: np.random.Generator,
        *,
        seconds: float | None = None,
        whispered: bool = False,
    ) -> np.ndarray:
        """Synthesise one utterance.

        Args:
            pitch: mean, in log units relative to `PITCH_MEDIAN`.
            level: level in dB relative to `LEVEL_MEAN`.
            rng: random generator for vowels and contour.
            seconds: length; None draws 1.0 to 2.2 s.
            whispered: noise instead of pulses, which leaves no pitch.

        Returns:
            (samples,) float32 at `SAMPLING_RATE`.
        """
        samples = int(SAMPLING_RATE * (rng.uniform(1.0, 2.2) if seconds is None else seconds))
        signal = _synthesise(self, PITCH_MEDIAN * np.exp(pitch), samples, rng, whispered=whispered)
        rms = np.sqrt(np.mean(signal**2))
        return np.clip(signal / rms * 10 ** ((LEVEL_MEAN + level) / 20), -1, 1).astype(np.float32)


def _synthesise(voice: Voice, pitch: float, samples: int, rng: np.random.Generator, *, whispered: bool) -> np.ndarray:
    """Filtered source, syllable by syllable, between two short silences; at an arbitrary level."""
    phase = np.cumsum(pitch * _intonation(voice, samples, rng) / SAMPLING_RATE)
    pulses = rng.standard_normal(samples) if whispered else np.diff(np.floor(phase), prepend=0.0)
    source = lfilter([1.0], [1.0, -voice.tilt], pulses)
    source = source - source.mean() + voice.breath * rng.standard_normal(samples)

    signal = np.zeros(samples)
    first, last = (int(SAMPLING_RATE * rng.uniform(0.0, 0.12)) for _ in range(2))
    syllables = max(1, round(voice.rate * (samples - first - last) / SAMPLING_RATE))
    bounds = np.linspace(first, samples - last, syllables + 1).astype(int)
    for start, end in pairwise(bounds):
        onset = start + int((end - start) * rng.uniform(0.0, 0.4))
        signal[start:onset] = _consonant(voice, onset - start, rng)
        signal[onset:end] = _vowel(voice, source[onset:end], rng)
    floor = 10 ** (rng.uniform(*NOISE_FLOOR) / 20)
    return signal + floor * rng.standard_normal(samples)


def _intonation(voice: Voice, samples: int, rng: np.random.Generator) -> np.ndarray:
    """(samples,), the pitch relative to its mean: slow waves around a falling line, as in statements."""
    time = np.arange(samples) / SAMPLING_RATE
    waves = sum(np.sin(2 * np.pi * (rng.uniform(low, 2 * low) * time + rng.uniform())) for low in (0.6, 1.5))
    contour = np.exp(voice.intonation * (0.7 * waves - 1.2 * (time - time.mean())))
    return contour / contour.mean()


def _vowel(voice: Voice, source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random vowel of the voice's vocal tract, at 0 dB before fading in and out."""
    formants = np.array([*_VOWELS[rng.integers(len(_VOWELS))], 3500.0]) / voice.tract
    for frequency, bandwidth in zip(formants, _FORMANT_BANDWIDTHS):
        source = lfilter(*_resonator(frequency, bandwidth), source)
    return source / (np.sqrt(np.mean(source**2)) + 1e-9) * _fade(len(source)) * rng.uniform(0.7, 1.0)


def _consonant(voice: Voice, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A closure (silence) or a fricative: noise around 2.5 to 6.5 kHz, weaker than the vowels."""
    if rng.uniform() < 0.5:
        return np.zeros(samples)
    frequency = rng.uniform(2500, 6500) / voice.tract
    noise = lfilter(*_resonator(frequency, 1500.0), rng.standard_normal(samples))
    return noise / (np.sqrt(np.mean(noise**2)) + 1e-9) * _fade(samples) * rng.uniform(0.05, 0.4) if samples else noise


def _fade(samples: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(samples) + 0.5) / samples) ** 0.5


def _resonator(frequency: float, bandwidth: float) -> tuple[list[float], list[float]]:
    radius = np.exp(-np.pi * bandwidth / SAMPLING_RATE)
    angle = 2 * np.pi * min(frequency, 0.45 * SAMPLING_RATE) / SAMPLING_RATE
    return [1.0 - radius], [1.0, -2 * radius * np.cos(angle), radius**2]


def to_wav(waveform: np.ndarray) -> bytes:
    """(samples,) float in [-1, 1] at `SAMPLING_RATE` as 16-bit WAV."""
    buffer = io.BytesIO()
    wavfile.write(buffer, SAMPLING_RATE, np.round(waveform * 32767).astype(np.int16))
    return buffer.getvalue()
