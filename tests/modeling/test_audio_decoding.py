"""What a file claims is not believed, and what it leads to is not followed."""

import re
import struct
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
from audio_files import RATE, encode, to_wav
from tiny_models import tone

from titans_mal.modeling import audio_decoding, audio_headers, audio_loading
from titans_mal.modeling.audio_checks import AudioDecodingError, AudioTooLong
from titans_mal.modeling.audio_decoding import AudioBlock, header_seconds
from titans_mal.modeling.audio_loading import audio_blocks, audio_seconds, load_audio


def with_a_lie(form: str, seconds: float, declared: float) -> bytes:
    """A file of so many seconds whose header declares others."""
    samples = round(declared * RATE)
    if form == "flac":
        data = bytearray(encode(tone(seconds), "flac", "flac"))
        # The last 36 bits of 8 bytes of STREAMINFO, from byte 18 of the file on.
        data[21] = data[21] & 0xF0 | samples >> 32
        data[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    elif form == "mp3":
        data = bytearray(encode(tone(seconds)[None], "mp3", "mp3", fmt="fltp"))
        place = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
        data[place + 8 : place + 12] = struct.pack(">I", samples // 576)
    else:  # the last page of Ogg has the number of the last sample, at 48 kHz
        data = bytearray(encode(tone(seconds, rate=48_000), "libopus", "ogg", rate=48_000))
        place = data.rfind(b"OggS")
        data[place + 6 : place + 14] = struct.pack("<q", 3 * samples)
        data[place + 22 : place + 26] = bytes(4)
        data[place + 22 : place + 26] = struct.pack("<I", ogg_checksum(bytes(data[place:])))
    return bytes(data)


def ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("form", ["flac", "mp3", "opus"])
def test_a_length_is_what_is_decoded(form):
    data = with_a_lie(form, 20.0, declared=1.0)
    assert audio_seconds(data) == pytest.approx(1.0, abs=0.15)
    with pytest.raises(AudioTooLong, match=r"The turn is longer than the allowed 5 s\."):
        load_audio(data, max_seconds=5)
    assert len(load_audio(data, max_seconds=21)) == pytest.approx(20 * RATE, abs=RATE / 4)


def test_ogg_streams_one_after_the_other_are_one_length(tmp_path):
    """The last page has the length of the last stream alone."""
    first, second = (encode(tone(seconds, rate=48_000), "libopus", "ogg", rate=48_000) for seconds in (2.0, 0.5))
    (tmp_path / "both.ogg").write_bytes(first + second)
    for source in (first + second, tmp_path / "both.ogg", f"{tmp_path / 'both.ogg'}#t=0.0,9.0"):
        assert audio_seconds(source) == pytest.approx(len(load_audio(source)) / RATE, abs=0.05)
        assert audio_seconds(source) == pytest.approx(2.5, abs=0.05)
    assert header_seconds(first) == pytest.approx(2.0, abs=0.05)
    with pytest.raises(AudioTooLong):
        load_audio(first + second, max_seconds=2.2)


def test_no_more_is_decoded_than_was_allowed(monkeypatch):
    decoded = []
    convert = audio_decoding._as_float

    def counting(samples):
        decoded.append(samples.shape[1])
        return convert(samples)

    monkeypatch.setattr(audio_decoding, "_as_float", counting)
    with pytest.raises(AudioTooLong):
        load_audio(with_a_lie("flac", 20.0, declared=1.0), max_seconds=2)
    assert 2 * RATE < sum(decoded) < 3 * RATE
    with pytest.raises(AudioTooLong):
        load_audio((np.zeros(20 * RATE, np.float32), RATE), max_seconds=2)


@pytest.mark.parametrize(("channels", "layout", "rate"), [(1, "mono", 16_000), (8, "7.1", 96_000)])
def test_memory_does_not_grow_with_what_is_decoded(channels, layout, rate):
    """Beside the signal itself: as float64, eight channels at 96 kHz are a hundred times as much."""
    data = encode(np.zeros((channels, 30 * rate)), "flac", "flac", rate=rate, layout=layout)
    tracemalloc.start()
    waveform = load_audio(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(waveform) == 30 * RATE
    assert peak < waveform.nbytes + 16e6


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("size", [1, 777, 100_003])
def test_blocks_are_resampled_as_the_whole(rate, size, monkeypatch):
    """To the bit, also where the length is no multiple of anything."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(rate // 10 if size == 1 else 3 * rate + 17)
    monkeypatch.setattr("titans_mal.modeling.audio_loading._BLOCK", size)
    expected = soxr.resample(samples, rate, RATE).astype(np.float32)
    np.testing.assert_array_equal(load_audio((samples, rate)), expected)
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks((samples, rate)))), expected)


def test_a_file_that_changes_its_rate(monkeypatch):
    blocks = [AudioBlock(tone(rate=rate)[None].astype(np.float64), rate, ("FC",)) for rate in (16_000, 48_000, 8_000)]
    monkeypatch.setattr(audio_loading, "decode_blocks", lambda source: iter(blocks))
    waveform = load_audio("three.mp3")
    np.testing.assert_array_equal(waveform, np.concatenate([load_audio((b.channels, b.rate)) for b in blocks]))
    assert len(waveform) == 3 * RATE


def test_one_channel():
    left, right = tone(), tone(frequency=500)
    data = to_wav(np.stack([left, right]))
    for channel, samples in enumerate((left, right), start=1):
        np.testing.assert_allclose(load_audio(data, channel=channel), samples, atol=5e-5)
        np.testing.assert_array_equal(load_audio((np.stack([left, right]), RATE), channel=channel), samples)
    with pytest.raises(AudioDecodingError, match="has no channel 3: its channels are 1 to 2"):
        load_audio(data, channel=3)
    for channel in (0, -1, True, 1.0, "1"):
        with pytest.raises(ValueError, match="channel must be an integer from 1"):
            load_audio(data, channel=channel)


# Each leads elsewhere, or is a container that nobody records in.
SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n"
TEXTS = {
    "sdp": SDP,
    "ffconcat": b"ffconcat version 1.0\nfile other.wav\n",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.wav\n#EXT-X-ENDLIST\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "image": b"P6 2 2 255 " + bytes(12),
    "subtitles": b"WEBVTT\n\n00:00.000 --> 00:01.000\nx\n",
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("extension", [None, "wav", "ffconcat", "sdp", "m3u8"])
def test_references_to_other_files_are_rejected(text, extension, tmp_path, monkeypatch):
    """As bytes, and as a file whatever it is called; also where what it names is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.wav").write_bytes(to_wav(tone()))
    source = TEXTS[text]
    if extension is not None:
        source = tmp_path / f"turn.{extension}"
        source.write_bytes(TEXTS[text])
    for read in (load_audio, audio_seconds):
        with pytest.raises(AudioDecodingError, match="cannot be decoded as audio"):
            read(source)


@pytest.mark.parametrize("container", ["nut", "mpegts", "voc"])
def test_unlisted_containers_are_rejected(container):
    data = encode(tone(), "mp2" if container == "mpegts" else "pcm_s16le", container)
    with pytest.raises(AudioDecodingError, match=r"Supported containers: wav, .*, flac, ogg, mp3"):
        load_audio(data)


@pytest.mark.parametrize(
    ("codec", "container", "fmt"),
    [("pcm_s16le", "wav", "s16"), ("libopus", "ogg", "s16"), ("aac", "mov", "fltp"), ("aac", "adts", "fltp"),
     ("libopus", "webm", "s16"), ("pcm_s16le", "matroska", "s16"), ("pcm_s16be", "caf", "s16"),
     ("pcm_s16be", "au", "s16"),
     ("pcm_s16be", "aiff", "s16"), ("pcm_s16le", "avi", "s16"), ("pcm_s16le", "w64", "s16")],
)  # fmt: skip
def test_listed_containers_are_read(codec, container, fmt):
    rate = 48_000 if codec == "libopus" else RATE
    samples = tone(rate=rate)
    data = encode(samples[None] if fmt == "fltp" else samples, codec, container, fmt=fmt, rate=rate)
    assert len(load_audio(data)) == pytest.approx(RATE, abs=RATE / 8)


@pytest.mark.parametrize(("channels", "rate"), [(1, 10), (1, 999), (1, 10_000_000), (200, 16_000), (9, 192_000)])
def test_implausible_headers_are_rejected(channels, rate):
    header = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    content = b"data" + struct.pack("<I", 200 * channels * 20) + bytes(200 * channels * 20)
    data = b"WAVEfmt " + header + content
    data = b"RIFF" + struct.pack("<I", len(data)) + data
    with pytest.raises(AudioDecodingError, match=rf"{channels} channels at {rate} Hz|cannot be decoded"):
        load_audio(data)


@pytest.mark.parametrize("rate", [2**63, 10**400, float("inf"), float("nan"), 1e300, 999, 768_001, True])
def test_invalid_rates(rate):
    with pytest.raises(ValueError, match="rate"):
        load_audio((tone(), rate))
    with pytest.raises(ValueError, match="rate"):
        load_audio((tone(), RATE), sampling_rate=rate)


def test_decoding_has_a_time_limit(monkeypatch, tmp_path):
    path = tmp_path / "turn.wav"
    path.write_bytes(to_wav(tone()))
    monkeypatch.setattr(audio_decoding, "TIMEOUT", -1.0)
    for source in (path, path.read_bytes()):
        with pytest.raises(AudioDecodingError, match=r"decoding produced no audio within -1 s"):
            load_audio(source)


def test_errors_do_not_repeat_long_values():
    for source in ("x" * 5_000_000, "x" * 5_000_000 + "#t=1,2"):
        with pytest.raises(FileNotFoundError) as error:
            load_audio(source)
        assert len(str(error.value)) < 500


def test_tags_in_another_encoding_are_ignored():
    data = encode(tone(), "flac", "flac")
    tags = b"\x04\x00\x00\x00" + struct.pack("<I", 1) + struct.pack("<I", 0)
    comment = b"TITLE=\xff\xfe\xe9"
    tags = struct.pack("<I", 1) + b"x" + struct.pack("<I", 1) + struct.pack("<I", len(comment)) + comment
    block = bytes([4]) + len(tags).to_bytes(3, "big") + tags
    streaminfo = data[4:42]
    data = b"fLaC" + streaminfo + block + data[42:] if streaminfo[0] == 0 else data
    assert len(load_audio(data)) == RATE


def test_an_unknown_codec_is_rejected():
    """The tag of the format, at byte 20 of a WAV file, is none that exists."""
    data = bytearray(to_wav(tone()))
    data[20:22] = b"\xff\x7f"
    for read in (load_audio, audio_seconds):
        with pytest.raises(AudioDecodingError):
            read(bytes(data))


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--00.wav\n", "git annex get"),
    ],
)
def test_the_pointer_of_a_clone_is_named_as_such(content, command, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    for read in (load_audio, audio_seconds):
        with pytest.raises(AudioDecodingError, match=rf"a\.wav is a .* pointer .*`{command}` fetches it"):
            read(tmp_path / "a.wav")


def picture(side: int) -> bytes:
    """A PNG of one colour, 8 bytes a pixel when it is decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 8 * side) * side), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def peak_of_process(function) -> float:
    """MB that the process holds at most beyond what it holds before; FFmpeg's are not Python's."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak before
    except OSError:
        pytest.skip("the peak of a process is known on Linux alone")
    sizes = []
    for name in ("VmRSS", "VmHWM"):
        if sizes:
            function()
        sizes.append(int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000)
    return sizes[1] - sizes[0]


def test_the_picture_of_an_album_is_not_decoded():
    """80 kB of a file that would take 72 MB."""
    content = b"\0image/png\0\x03\0" + picture(3000)
    frame = b"APIC" + struct.pack(">I", len(content)) + b"\0\0" + content
    length = bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0))
    data = b"ID3\x03\0\0" + length + frame + encode(tone()[None], "mp3", "mp3", fmt="fltp")
    load_audio(data)
    assert peak_of_process(lambda: load_audio(data)) < 30


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_alaw", "pcm_mulaw", "adpcm_ima_wav"])
@pytest.mark.parametrize("seconds", [0.02, 7.0])
def test_a_short_probe_of_plain_wav_changes_no_sample(codec, seconds, monkeypatch):
    content = encode(np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE)), codec, "wav")
    assert audio_headers.is_plain_wav(content[:42]) == (codec != "adpcm_ima_wav")
    short = np.concatenate([block.channels for block in audio_decoding.decode_blocks(content)], 1)
    monkeypatch.setattr(audio_headers, "_PLAIN_WAV", set())
    np.testing.assert_array_equal(
        short, np.concatenate([block.channels for block in audio_decoding.decode_blocks(content)], 1)
    )


def test_frames_of_another_rate_or_layout_are_not_joined():
    def frame(rate: int, channels: int, value: float) -> SimpleNamespace:
        layout = SimpleNamespace(channels=[SimpleNamespace(name=f"C{place}") for place in range(channels)])
        samples = np.full((channels, 4), value, np.float32)
        kind = SimpleNamespace(is_planar=True)
        return SimpleNamespace(layout=layout, sample_rate=rate, format=kind, to_ndarray=lambda: samples)

    given = [frame(8000, 1, 0.1), frame(8000, 1, 0.2), frame(16_000, 1, 0.3), frame(16_000, 2, 0.4)]
    clock = audio_decoding._Clock("a file")
    blocks = list(audio_decoding._joined([(one, slice(1, None)) for one in given], "a file", clock))
    assert [(samples.shape, rate, len(layout)) for samples, rate, layout in blocks] == [
        ((1, 6), 8000, 1), ((1, 3), 16_000, 1), ((2, 3), 16_000, 2),
    ]  # fmt: skip
