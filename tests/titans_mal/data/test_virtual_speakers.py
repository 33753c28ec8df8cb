"""Virtual speakers: what they change, and that a change can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import tone

from titans_mal.data.virtual_speakers import FASTEST, SLOWEST, VirtualSpeaker, other_voices


def draw(seed: int, **parts: bool) -> VirtualSpeaker:
    return VirtualSpeaker.draw(np.random.default_rng(seed), **parts)


def loudest_frequency(waveform: np.ndarray, rate: int = 16_000) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(waveform, rate))))


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_the_speed_scales_pitch_and_length(rate):
    times = np.arange(rate) / rate
    waveform = np.sin(2 * np.pi * 300 * times).astype(np.float32)
    faster = VirtualSpeaker(speed=1.1)(waveform, rate)
    assert faster.dtype == np.float32
    assert len(faster) == pytest.approx(len(waveform) / 1.1, abs=2)
    assert loudest_frequency(faster, rate) == pytest.approx(330, abs=1)


def test_nothing_to_change_changes_nothing():
    waveform = tone(0.3)
    np.testing.assert_array_equal(VirtualSpeaker()(waveform), waveform)
    assert len(draw(0)(waveform[:0])) == 0
    assert not draw(0)(np.zeros(1000, np.float32)).any()


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_a_channel_keeps_the_length_and_the_time(rate):
    click = np.zeros(rate, np.float32)
    click[rate // 2] = 0.5
    speaker = VirtualSpeaker(impulse_response=draw(3, voice=False).impulse_response)
    changed = speaker(click, rate)
    assert changed.shape == click.shape
    assert np.abs(changed).argmax() == pytest.approx(rate // 2, abs=rate // 500)
    assert np.mean(changed**2) == pytest.approx(np.mean(click**2), rel=1e-3)


def test_level_and_noise_are_in_decibels():
    waveform, response = tone(1.0) / 4, np.eye(1, 512, 256)[0]
    power = float(np.mean(waveform**2))
    quieter = VirtualSpeaker(impulse_response=response, level=-6.0)(waveform)
    assert np.mean(quieter**2) == pytest.approx(power * 10**-0.6, rel=1e-2)
    noisy = VirtualSpeaker(impulse_response=response, noise_level=20.0)(waveform)
    assert np.mean((noisy - waveform) ** 2) == pytest.approx(power / 100, rel=0.05)


def test_no_sample_leaves_full_scale_and_the_same_seed_gives_the_same():
    waveform = tone(0.5)
    for seed in range(20):
        speaker = draw(seed)
        assert SLOWEST <= speaker.speed <= FASTEST
        changed = speaker(waveform)
        assert np.abs(changed).max() <= 1.0
        np.testing.assert_array_equal(changed, draw(seed)(waveform))


def test_other_voices_differ_by_speaker_and_copy_and_leave_the_channel():
    voices = other_voices(["b", "a", "b"], 1)
    assert sorted(voices) == ["a", "b"]
    assert voices == other_voices(["a", "b"], 1) != other_voices(["a", "b"], 2)
    assert voices["a"].speed != voices["b"].speed
    assert voices["a"].impulse_response is None
