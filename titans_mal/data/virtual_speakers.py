"""Virtual speakers: audio changed as if spoken by another person, or recorded in another room or by another device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import soxr
from scipy.signal import fftconvolve


# Factors of the speed. Ko et al. 2015 (Audio augmentation for speech recognition, Interspeech) use 0.9 to 1.1.
SLOWEST, FASTEST = 0.86, 1.16
RATE = 16_000
TAPS = 512


@dataclass(frozen=True)
class VirtualSpeaker:
    """A change of voice and channel that is applied to all turns of a speaker.

    Attributes:
        speed: resampling factor, which scales pitch, formants and tempo alike.
        impulse_response: (taps,) float64 at 16 kHz, of microphone and room; None: the channel is unchanged.
        level: change of the level, in dB.
        noise_level: level of added noise below the speech, in dB; infinite for no noise.
    """

    speed: float = 1.0
    impulse_response: np.ndarray | None = field(default=None, repr=False)
    level: float = 0.0
    noise_level: float = np.inf

    @classmethod
    def draw(cls, rng: np.random.Generator, *, voice: bool = True, channel: bool = True) -> VirtualSpeaker:
        """Draw a random change.

        Args:
            rng: random generator.
            voice: change the speed, between 0.86 and 1.16.
            channel: change the microphone, the room (reverberation time 0.05 to 0.5 s), the level (-20 to 6 dB) and
                the noise (15 to 45 dB below the speech).
        """
        speed = rng.uniform(SLOWEST, FASTEST) if voice else 1.0
        if not channel:
            return cls(speed)
        response = np.convolve(_draw_microphone(rng), _draw_room(rng))
        return cls(speed, response, level=rng.uniform(-20, 6), noise_level=rng.uniform(15, 45))

    def __call__(self, waveform: np.ndarray, sampling_rate: int = RATE) -> np.ndarray:
        """(samples,) float32, of another length if the speed changes; silence stays silence.

        Args:
            waveform: (samples,) float32 in [-1, 1].
            sampling_rate: sampling rate of the waveform, in Hz.
        """
        changed = np.asarray(waveform, dtype=np.float32)
        if self.speed != 1:
            changed = soxr.resample(changed, sampling_rate * self.speed, sampling_rate)
        power = float(np.mean(changed**2)) if len(changed) else 0.0
        if self.impulse_response is None or power == 0:
            return changed
        response = self.impulse_response
        if sampling_rate != RATE:
            response = soxr.resample(response, RATE, sampling_rate)
        delay = TAPS // 2 * sampling_rate // RATE
        changed = fftconvolve(changed, response)[delay : delay + len(changed)]
        changed = changed * np.sqrt(power / max(float(np.mean(changed**2)), 1e-12))
        if np.isfinite(self.noise_level):
            # Same noise for all turns of the speaker, so that the change is reproducible.
            noise = np.random.default_rng(len(response)).standard_normal(len(changed))
            changed = changed + noise * np.sqrt(power) * 10 ** (-self.noise_level / 20)
        changed = changed * 10 ** (self.level / 20)
        return (changed / max(1.0, float(np.abs(changed).max()))).astype(np.float32)


def other_voices(speakers: Iterable[str], copy: int) -> dict[str, VirtualSpeaker]:
    """Draw another voice for each speaker.

    Args:
        speakers: their names.
        copy: the seed, at least 1; the same names and seed give the same voices.
    """
    rng = np.random.default_rng((copy, 0))
    return {name: VirtualSpeaker.draw(rng, channel=False) for name in sorted(set(speakers))}


def _draw_microphone(rng: np.random.Generator) -> np.ndarray:
    """(512,) a linear-phase filter: a tilt, four peaks or dips, and sometimes a low-pass and a high-pass."""
    frequencies = np.linspace(0, RATE / 2, TAPS // 2 + 1)
    gain = rng.uniform(-3, 3) * np.log2((frequencies + 200) / 1000)
    for _ in range(4):
        octaves = np.log2((frequencies + 50) / rng.uniform(100, 7000))
        gain += rng.normal(0, 4) * np.exp(-0.5 * (octaves / rng.uniform(0.3, 1)) ** 2)
    if rng.random() < 0.6:
        gain -= 20 * np.maximum(0, (frequencies - rng.uniform(3000, 7500)) / 1000)
    if rng.random() < 0.5:
        gain -= 10 * np.maximum(0, (rng.uniform(80, 300) - frequencies) / 100)
    response = np.fft.irfft(10 ** (np.clip(gain, -60, 20) / 20))
    return np.roll(response, TAPS // 2) * np.hanning(TAPS)


def _draw_room(rng: np.random.Generator) -> np.ndarray:
    """(samples,) the direct path, and noise that decays by 60 dB within the reverberation time."""
    seconds = rng.uniform(0.05, 0.5)
    times = np.arange(int(seconds * RATE)) / RATE
    response = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds) * rng.uniform(0, 0.15)
    response[0] = 1.0
    return response
