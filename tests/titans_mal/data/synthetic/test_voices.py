import numpy as np
import pytest

from titans_mal.data.synthetic.voices import LEVEL_MEAN, PITCH_MEDIAN, SAMPLING_RATE, Voice


def pitch_of(waveform: np.ndarray) -> float:
    """Median pitch in Hz of the voiced frames, from their autocorrelation."""
    size, pitches = 1024, []
    loud = 0.5 * np.sqrt(np.mean(waveform**2))
    for start in range(0, len(waveform) - size, 320):
        frame = waveform[start : start + size]
        if np.sqrt(np.mean(frame**2)) < loud:
            continue
        spectrum = np.abs(np.fft.rfft((frame - frame.mean()) * np.hanning(size), 4 * size)) ** 2
        correlation = np.fft.irfft(spectrum)
        low, high = SAMPLING_RATE // 450, SAMPLING_RATE // 55
        pitches.append(SAMPLING_RATE / (low + np.argmax(correlation[low:high])))
    return float(np.median(pitches))


def level_of(waveform: np.ndarray) -> float:
    return 20 * np.log10(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))


def voice(**fields) -> Voice:
    return Voice(**{"tract": 1.0, "tilt": 0.8, "breath": 0.01, "rate": 4.5, "intonation": 0.03} | fields)


def mean_of(measure, voice: Voice, pitch: float = 0.0, level: float = 0.0, **how) -> float:
    return float(np.mean([measure(voice.speak(pitch, level, np.random.default_rng(i), **how)) for i in range(12)]))


@pytest.mark.parametrize(("pitch", "level"), [(-0.3, -6.0), (0.0, 0.0), (0.4, 8.0)])
def test_a_turn_has_the_pitch_and_the_level_that_it_is_given(pitch, level):
    assert mean_of(pitch_of, voice(), pitch, level) == pytest.approx(PITCH_MEDIAN * np.exp(pitch), rel=0.06)
    assert mean_of(level_of, voice(), pitch, level) == pytest.approx(LEVEL_MEAN + level, abs=0.1)


def test_a_shorter_vocal_tract_has_higher_formants_at_the_same_pitch():
    def centroid(waveform):
        spectrum = np.abs(np.fft.rfft(waveform)) ** 2
        return (spectrum * np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE)).sum() / spectrum.sum()

    assert mean_of(centroid, voice(tract=0.75)) > 1.1 * mean_of(centroid, voice(tract=1.1))
    assert mean_of(pitch_of, voice(tract=0.75)) == pytest.approx(PITCH_MEDIAN, rel=0.06)


def test_a_whispered_turn_has_no_pitch():
    def periodicity(waveform):
        """The largest autocorrelation of a frame at the lags of pitches, mean over the loud frames."""
        found = []
        for start in range(0, len(waveform) - 1024, 512):
            frame = waveform[start : start + 1024] * np.hanning(1024)
            correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 4096)) ** 2)
            found.append(correlation[SAMPLING_RATE // 450 : SAMPLING_RATE // 55].max() / (correlation[0] + 1e-12))
        return np.median(found)

    assert mean_of(periodicity, voice(), whispered=True) < 0.8 * mean_of(periodicity, voice())
