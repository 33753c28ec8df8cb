"""Calls with a speaker on each channel."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from audio_files import encode, to_wav

from titans_mal import load_audio, load_recording
from titans_mal.data.audio import AudioTooLong, channel_blocks
from titans_mal.live.channels import ChannelDetector, CrosstalkGate, channel_segments, channel_turns
from titans_mal.live.turn_detector import SpokenTurn
from titans_mal.modeling.audio_decoding import decode_blocks


CLIPS = sorted((Path(__file__).resolve().parents[3] / "examples/quickstart/conversation").glob("turn_*.wav"))[2:5]
# Channel and start of each turn; the last two overlap.
TURNS = ((0, 1.0), (1, 5.0), (0, 5.8))


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Three turns on two channels, each of which leaks into the other one at a twentieth (26 dB weaker)."""
    clean = np.zeros((2, 12 * 16_000), np.float32)
    for path, (channel, start) in zip(CLIPS, TURNS):
        clip = load_audio(path)
        clean[channel, round(start * 16_000) :][: len(clip)] += clip
    file = tmp_path_factory.mktemp("call") / "call.wav"
    file.write_bytes(to_wav(clean + 0.05 * clean[::-1]))
    return file


def test_each_channel_is_cut_at_its_own_pauses_into_one_conversation(call):
    segments = channel_segments(call, ["caller", "agent"])
    assert [segment.speaker for segment in segments] == ["caller", "agent", "caller"]
    assert [segment.channel for segment in segments] == [1, 2, 1]
    assert [segment.start for segment in segments] == pytest.approx([start for _, start in TURNS], abs=0.25)
    table = load_recording(call, segments)["test"]
    channels = [load_audio(call, channel=number) for number in (1, 2)]
    for row, segment in zip(table, segments, strict=True):
        first = round(segment.start * 16_000)
        loaded = load_audio(row["audio"])
        np.testing.assert_array_equal(loaded, channels[segment.channel - 1][first : first + len(loaded)])


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("container", ["wav", "flac", "mp3"])
def test_a_recording_is_decoded_once_with_the_samples_of_each_channel(call, monkeypatch, rate, container):
    clean = np.stack([load_audio(call, rate, channel=number) for number in (1, 2)])
    if container == "wav":
        recording = to_wav(clean, rate)
    else:
        codec, fmt = ("flac", "s16") if container == "flac" else ("mp3", "fltp")
        recording = encode(clean, codec, container, rate=rate, layout="stereo", fmt=fmt)
    decoded = []

    def decode(source):
        decoded.append(source)
        return decode_blocks(source)

    monkeypatch.setattr("titans_mal.modeling.audio_loading.decode_blocks", decode)
    found = channel_turns(recording, ["A", "B"])
    assert (len(decoded), [channel for channel, _ in found]) == (1, [0, 1, 0])
    # As with each channel decoded and resampled by itself.
    detector = ChannelDetector(2)
    turns = detector.feed(np.stack([load_audio(recording, channel=number) for number in (1, 2)]), 16_000)
    turns += detector.flush()
    for (channel, turn), (other, expected) in zip(found, turns, strict=True):
        assert (channel, turn.start, turn.end) == (other, expected.start, expected.end)
        np.testing.assert_array_equal(turn.waveform, expected.waveform)


def test_limits_of_a_recording_of_several_channels(call):
    with pytest.raises(AudioTooLong, match=r"call.wav is longer than the allowed 11.9 s"):
        channel_turns(call, ["A", "B"], max_seconds=11.9)
    assert len(channel_turns(call, ["A", "B"], max_seconds=12)) == 3
    for wrong in (0, float("nan"), "12"):
        with pytest.raises(ValueError, match="max_seconds must be a number above 0"):
            channel_turns(call, ["A", "B"], max_seconds=wrong)
    with pytest.raises(ValueError, match=r"call.wav has 2 channels in a piece of it, expected 3"):
        list(channel_blocks(call, 3))
    with pytest.raises(FileNotFoundError):
        channel_turns(call.with_name("none.wav"), ["A", "B"])


def test_the_audio_of_turns_is_not_kept_for_their_times(monkeypatch):
    kept = []

    def found(*_):
        for number in range(3):
            assert all(waveform() is None for waveform in kept[:-1])  # but for the turn at hand
            turn = SpokenTurn(np.zeros(1600, np.float32), number, number + 0.1)
            kept.append(weakref.ref(turn.waveform))
            yield 0, turn
            del turn

    monkeypatch.setattr("titans_mal.live.channels._found_turns", found)
    assert len(channel_segments("call.wav", ["A", "B"])) == 3


def test_crosstalk_is_a_turn_only_above_the_level(call):
    assert len(channel_segments(call, ["caller", "agent"], crosstalk_db=60.0)) > 3


def test_who_begins_while_another_speaker_talks_is_not_cut(tmp_path):
    clean = np.zeros((2, 6 * 16_000), np.float32)
    for channel, (path, start) in enumerate(zip(CLIPS, (1.0, 1.3))):
        clip = load_audio(path)
        clean[channel, round(start * 16_000) :][: len(clip)] += clip * 0.05 / np.sqrt(np.square(clip).mean())
    (tmp_path / "call.wav").write_bytes(to_wav(clean + 0.05 * clean[::-1]))
    segments = channel_segments(tmp_path / "call.wav", ["A", "B"])
    assert [(s.speaker, s.start) for s in segments] == [
        ("A", pytest.approx(1, abs=0.05)),
        ("B", pytest.approx(1.3, abs=0.05)),
    ]


@pytest.mark.parametrize("speakers", [["A"], ["A", "B", "C"], ["A", "A"], ["A", " "]])
def test_one_name_per_channel(call, speakers):
    with pytest.raises(ValueError, match="has 2 channels: give a different speaker for each"):
        channel_segments(call, speakers)


def test_silence_has_no_turns(tmp_path):
    (tmp_path / "call.wav").write_bytes(to_wav(np.full((2, 16_000), 1e-4, np.float32)))
    with pytest.raises(ValueError, match="no speech was found"):
        channel_segments(tmp_path / "call.wav", ["A", "B"])


@pytest.mark.parametrize("size", [100, 512, 5000, 40_000])
def test_the_gate_gives_the_same_for_pieces_of_any_size(size):
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((2, 20_000)).astype(np.float32) * np.array([[1.0], [0.01]], np.float32)
    samples[:, 10_000:] = samples[::-1, 10_000:]
    gate = CrosstalkGate(2, 20.0)
    pieces = [gate.feed(samples[:, start : start + size]) for start in range(0, 20_000, size)]
    gated = np.concatenate([*pieces, gate.flush()], axis=1)
    whole = CrosstalkGate(2, 20.0)
    np.testing.assert_array_equal(gated, np.concatenate([whole.feed(samples), whole.flush()], axis=1))
    assert gated.shape == samples.shape
    # The louder channel is as it was; the weaker one, 40 dB below, is silent until three windows before it is loud.
    np.testing.assert_array_equal(gated[0, :9_728], samples[0, :9_728])
    assert not gated[1, :8_192].any()
    np.testing.assert_array_equal(gated[1, 8_192:], samples[1, 8_192:])
    with pytest.raises(ValueError, match="above 0, in dB"):
        CrosstalkGate(2, 0.0)


def test_a_late_echo_is_muted():
    """An echo of 160 ms, five windows, that goes on after the speaker has ended."""
    samples = np.zeros((2, 40 * 512), np.float32)
    samples[0, 10 * 512 : 20 * 512] = np.random.default_rng(0).standard_normal(10 * 512) * 0.1
    samples[1, 15 * 512 : 25 * 512] = 0.05 * samples[0, 10 * 512 : 20 * 512]
    gate = CrosstalkGate(2)
    gated = np.concatenate([gate.feed(samples), gate.flush()], axis=1)
    np.testing.assert_array_equal(gated[0], samples[0])
    assert not gated[1].any()
