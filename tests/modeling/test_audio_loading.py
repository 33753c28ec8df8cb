import io
import math
import re
import warnings

import av
import numpy as np
import pytest
import soundfile
import soxr
from audio_files import RATE, encode, to_wav
from scipy.io import wavfile
from tiny_models import tone

from titans_mal.modeling.audio_loading import (
    AudioDecodingError,
    audio_seconds,
    check_waveform,
    load_audio,
)
from titans_mal.modeling.audio_source import channel_of_part, part_of_file


def level(waveform) -> float:
    """dB of full scale."""
    return 20 * np.log10(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


@pytest.mark.parametrize("source", ["path", "str", "bytes", "dict of bytes", "dict of path", "array", "dict of array"])
def test_every_type_of_source_gives_the_same_audio(source, tmp_path):
    wave_bytes = to_wav(tone())
    path = tmp_path / "turn.wav"
    path.write_bytes(wave_bytes)
    pcm = np.round(tone() * 32767).astype(np.int16)
    sources = {
        "path": path,
        "str": str(path),
        "bytes": wave_bytes,
        "dict of bytes": {"bytes": wave_bytes, "path": "turn.wav"},
        "dict of path": {"bytes": None, "path": str(path)},
        "array": (pcm, RATE),
        "dict of array": {"array": pcm / np.float32(32768), "sampling_rate": RATE},
    }
    waveform = load_audio(sources[source])
    assert waveform.dtype == np.float32
    assert waveform.shape == (RATE,)
    np.testing.assert_allclose(waveform, pcm / 32768, atol=1e-6)


def test_lossless_formats_are_exact():
    float_wav = io.BytesIO()
    wavfile.write(float_wav, RATE, tone())
    np.testing.assert_array_equal(load_audio(float_wav.getvalue()), tone())
    for data in (to_wav(tone()), encode(tone(), "flac", "flac")):
        np.testing.assert_allclose(load_audio(data), tone(), atol=4e-5)


@pytest.mark.parametrize(("codec", "container", "fmt"), [("mp3", "mp3", "fltp"), ("aac", "mp4", "fltp")])
def test_lossy_formats_keep_level_and_length(codec, container, fmt):
    waveform = load_audio(encode(tone(2.0), codec, container, fmt=fmt))
    assert abs(len(waveform) / RATE - 2.0) < 0.15
    assert abs(level(waveform[4000:-4000]) - level(tone())) < 0.5


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_and_level(rate):
    waveform = load_audio(to_wav(tone(rate=rate), rate))
    assert abs(len(waveform) - RATE) <= 1
    assert abs(level(waveform) - level(tone())) < 0.05
    peak = np.argmax(np.abs(np.fft.rfft(waveform))) * RATE / len(waveform)
    assert abs(peak - 220) <= 1
    # Nothing above the new Nyquist frequency folds back.
    high = load_audio(to_wav(tone(frequency=15_000, rate=48_000), 48_000))
    assert level(high[1000:-1000]) < level(tone()) - 90


def test_the_rate_can_be_chosen():
    assert load_audio((tone(), RATE), sampling_rate=8_000).shape == (8_000,)


def test_resampling_is_soxrs():
    expected = soxr.resample(tone(rate=44_100).astype(np.float64), 44_100, RATE)
    np.testing.assert_allclose(load_audio((tone(rate=44_100), 44_100)), expected, atol=1e-6)


def test_channels_are_mixed_and_not_added():
    left, right = tone(), tone(frequency=500)
    np.testing.assert_allclose(load_audio(to_wav(np.stack([left, right]))), (left + right) / 2, atol=5e-5)
    # Audio that is alike in both channels keeps its level, and so does audio in every channel of surround audio.
    assert abs(level(load_audio(to_wav(np.stack([left, left])))) - level(left)) < 0.01
    six = encode(np.stack([left] * 6), "flac", "flac", layout="5.1")
    assert abs(level(load_audio(six)) - level(left)) < 0.01


def test_the_mix_of_surround_audio_is_that_of_its_layout():
    """5.1 is FL, FR, FC, LFE, BL, BR: the centre counts more than the back, the effects channel not at all."""
    silence = 0 * tone()

    def alone(channel):
        return load_audio(
            encode(np.stack([tone() if i == channel else silence for i in range(6)]), "flac", "flac", layout="5.1")
        )

    gains = np.array([np.abs(alone(channel)).max() / 0.1 for channel in range(6)])
    expected = np.array([0.7071, 0.7071, 1.0, 0.0, 0.5, 0.5])
    np.testing.assert_allclose(gains, expected / expected.sum(), atol=2e-3)


def test_integers_are_pcm():
    for dtype, zero, top in ((np.int16, 0, 32767), (np.int32, 0, 2**31 - 1), (np.uint8, 128, 255)):
        waveform = load_audio((np.array([zero, top] * 100, dtype=dtype), RATE))
        assert waveform[0] == 0
        assert abs(waveform[1] - 1) < 0.01


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (b"", AudioDecodingError, "empty"),
        (b"this is no audio, whatever it is called" * 10, AudioDecodingError, "cannot be decoded as audio"),
        ("no/such/file.wav", FileNotFoundError, r"no/such/file\.wav"),
        (None, ValueError, "got NoneType"),
        (12, ValueError, "got int"),
        (tone(), ValueError, "got ndarray"),
        ({"path": None, "bytes": None}, ValueError, "got NoneType"),
        ((tone(), None), ValueError, "needs its sampling rate"),
        ((tone(), 0), ValueError, "needs its sampling rate"),
        ((tone(), -8000), ValueError, "needs its sampling rate"),
        (({"a": 1}, RATE), ValueError, "is an array, got dict"),
        ((tone().reshape(2, 2, -1), RATE), ValueError, r"must be \(samples,\) or \(channels, samples\)"),
        ((tone().reshape(-1, 2), RATE), ValueError, r"up to 8 channels, got float32 \(8000, 2\)"),
        ((np.array([0.1, np.nan]), RATE), AudioDecodingError, "not finite"),
        ((np.array(["a", "b"]), RATE), ValueError, "must be"),
    ],
)
def test_invalid_audio_is_rejected(source, error, message):
    with pytest.raises(error, match=message):
        load_audio(source)


@pytest.mark.parametrize("keep", [30, 0.5, 0.9])
@pytest.mark.parametrize("form", ["wav", "flac", "aiff", "au"])
def test_truncated_files_are_rejected(form, keep, tmp_path):
    codec = "flac" if form == "flac" else "pcm_s16be"
    data = to_wav(tone(2.0)) if form == "wav" else encode(tone(2.0), codec, form)
    path = tmp_path / f"cut.{form}"
    path.write_bytes(data[: keep if keep > 1 else int(len(data) * keep)])
    with pytest.raises(AudioDecodingError, match=f"cut.{form}: .*(truncated|no samples|cannot be decoded)"):
        load_audio(path)


def test_a_wav_that_was_streamed_has_no_length_and_is_read():
    data = bytearray(to_wav(tone()))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert load_audio(bytes(data)).shape == (RATE,)


def test_a_wav_whose_last_byte_of_padding_is_counted_but_missing_is_read():
    data = bytearray(to_wav(tone()))
    data[4:8] = (len(data) - 8 + 1).to_bytes(4, "little")
    assert load_audio(bytes(data)).shape == (RATE,)


def test_a_video_without_audio_is_rejected():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    with pytest.raises(AudioDecodingError, match="no audio stream"):
        load_audio(buffer.getvalue())


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0), "empty"),
        (np.zeros(RATE), "silent"),
        (np.full(RATE, np.nan), "16000 samples that are not finite"),
        (np.full(RATE, np.inf), "not finite"),
        (tone(0.05), r"lasts 0\.050 s, but the minimum is 0\.1 s"),
        (np.stack([tone(), tone()]), r"must be \(samples,\), got \(2, 16000\)"),
    ],
)
def test_unusable_turns_are_rejected(waveform, message):
    with pytest.raises(ValueError, match=message):
        check_waveform(waveform, RATE)


@pytest.mark.parametrize("peak", [150.0, 32767.0, 1e19, 3e38])
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_far_above_full_scale_is_rejected_with_its_peak(peak, channels):
    """Finite numbers, whose squares are not; two channels that cancel each other are no better."""
    samples = np.full((channels, RATE), -peak, np.float32)
    samples[0] = peak
    written = io.BytesIO()
    wavfile.write(written, RATE, samples.T)
    for source in (written.getvalue(), (samples, RATE), (samples.astype(np.float64), RATE)):
        with pytest.raises(AudioDecodingError, match=re.escape(f"has a peak of {peak:.4g}")):
            load_audio(source)
    with pytest.raises(AudioDecodingError, match=re.escape(f"has a peak of {peak:.4g}")):
        check_waveform(samples[0], RATE)


def test_audio_slightly_above_full_scale_is_unchanged():
    np.testing.assert_array_equal(load_audio((90 * tone(level=1.0), RATE)), 90 * tone(level=1.0))


def test_longer_turns_are_cut_with_a_warning():
    with pytest.warns(UserWarning, match=r"lasts 4\.0 s; its first 3 s are used"):
        cut = check_waveform(tone(4.0), RATE, max_seconds=3.0)
    np.testing.assert_array_equal(cut, tone(4.0)[: 3 * RATE])


@pytest.mark.parametrize("seconds", [math.nan, np.float32("nan"), 0, -1, "5", True, [1]])
def test_a_limit_that_is_no_length(seconds):
    with pytest.raises(ValueError, match="max_seconds must be a number above 0, or None for no limit"):
        load_audio((tone(0.5), RATE), max_seconds=seconds)
    assert len(load_audio((tone(0.5), RATE), max_seconds=math.inf)) == RATE // 2


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "ogg"])
@pytest.mark.parametrize(("start", "end"), [(0, 1.5), (2.3, 3.7), (4.5, 9)])
def test_a_part_of_a_file_gives_that_part_of_its_audio(tmp_path, extension, start, end):
    file = tmp_path / f"call #1.{extension}"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(5 * 16_000), 16_000)
    whole, part = load_audio(file), load_audio(part_of_file(file, start, end))
    np.testing.assert_array_equal(part, whole[round(start * 16_000) : round(end * 16_000)])
    assert audio_seconds(part_of_file(file, start, end)) == pytest.approx(min(end, 5) - start, abs=0.08)
    assert audio_seconds(file) == pytest.approx(5, abs=0.08)


@pytest.mark.parametrize(("end", "warned"), [(1.0, False), (1.05, False), (2.5, True), (2000, True)])
def test_a_part_that_ends_after_its_file(tmp_path, end, warned):
    """As times in milliseconds, and times of another recording."""
    file = tmp_path / "a.wav"
    soundfile.write(file, 0.1 * np.ones(16_000), 16_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(load_audio(part_of_file(file, 0.25, end))) == 12_000
    ends = ["ends before this part of it, of which 0.75 s are used" in str(warning.message) for warning in caught]
    assert ends == [True] * warned


def test_invalid_parts(tmp_path):
    file = tmp_path / "a.wav"
    soundfile.write(file, 0.1 * np.ones(16_000), 16_000)
    with pytest.raises(AudioDecodingError, match="no audio samples"):
        load_audio(part_of_file(file, 2, 3))
    with pytest.raises(FileNotFoundError, match=r"b\.wav#t=0"):
        load_audio(f"{tmp_path}/b.wav#t=0,1")
    for part, channel in (("#t=0,1", None), ("#t=0,1&channel=2", 2), ("", None)):
        assert channel_of_part(f"{file}{part}") == channel
    assert channel_of_part(part_of_file(file, 0, 1, channel=3)) == 3
    for start, end in [(1, 1), (-1, 2), (0, float("nan")), (0, float("inf"))]:
        with pytest.raises(ValueError, match="ends after that"):
            part_of_file(file, start, end)


def test_of_several_tracks_the_first_is_used_with_a_warning():
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for stream, frequency in zip(streams, (220.0, 440.0)):
            samples = np.round(tone(0.5, frequency=frequency) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.warns(UserWarning, match="the given bytes has 2 audio tracks, of which only the first is used"):
        waveform = load_audio(file.getvalue())
    np.testing.assert_allclose(waveform, tone(0.5), atol=1e-4)
