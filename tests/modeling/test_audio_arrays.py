"""Audio in arrays: its scale is known, seen and reported, or refused, at every way in."""

import contextlib
import tracemalloc

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, tiny_processor, tone

from titans_mal import AudioEmotionPipeline, ConversationAnalyzer, load_audio
from titans_mal.modeling.audio_arrays import channels_of, scale_of


RATE = 16_000
PCM = np.round(tone() * 32768).astype(np.int16)
EXPECTED = PCM / np.float32(32768)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_16_bit_samples_in_wider_integers_are_detected(dtype):
    with pytest.warns(UserWarning, match=f"is {np.dtype(dtype)} with a peak of 3277: it is treated as 16-bit samples"):
        waveform = load_audio((PCM.astype(dtype), RATE))
    np.testing.assert_array_equal(waveform, EXPECTED)
    extreme = np.array([-32768, 32767], dtype)
    with pytest.warns(UserWarning, match="16-bit"):
        np.testing.assert_array_equal(scale_of(extreme).of(extreme), [-1.0, 32767 / 32768])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_integers_in_floats_are_rejected(dtype):
    samples = (PCM // 100).astype(dtype)  # quiet ones too
    with pytest.raises(ValueError, match=r"holds integers as float\d\d with a peak of 33, where full scale is 1.0"):
        load_audio((samples, RATE))


@pytest.mark.parametrize(
    "samples",
    [
        PCM.astype(np.uint32) & 0x7FFF,
        PCM.astype(np.int64) << 20,
        PCM.astype(np.int32) << 8,
        np.array([0, -(2**23), 2**23 - 1], np.int32),  # 24-bit audio that is clipped
    ],
)
def test_integers_of_unknown_scale_are_rejected(samples):
    with pytest.raises(ValueError, match="so its full scale is unknown: give int16"):
        load_audio((samples, RATE))


@pytest.mark.parametrize(
    "samples", [PCM, PCM.astype(np.int32) << 16, EXPECTED, EXPECTED.astype(np.float64), EXPECTED.tolist(),
                torch.from_numpy(EXPECTED), torch.from_numpy(PCM), torch.from_numpy(EXPECTED).requires_grad_()]
)  # fmt: skip
def test_samples_of_known_scale(samples):
    np.testing.assert_allclose(load_audio((samples, RATE)), EXPECTED, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint8, np.float32, np.float64])
def test_a_long_array_is_not_copied_whole(dtype):
    """8 channels of 1,250,000 samples; a copy in float64 would take 80 MB beside the 5 MB of the result."""
    silence = 128 if dtype is np.uint8 else 0
    array = np.broadcast_to((np.arange(100) % 2 + silence).astype(dtype), (8, 12_500, 100)).reshape(8, -1)
    tracemalloc.start()
    with contextlib.nullcontext() if dtype is not np.int64 else pytest.warns(UserWarning, match="16-bit"):
        load_audio((array, RATE))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("level", [0.01, 0.1, 0.3])
def test_signed_samples_in_an_unsigned_type_are_rejected(bits, level):
    signed = (tone(0.2, level=level) * 2 ** (bits - 1)).astype(f"int{bits}")
    with pytest.raises(ValueError, match=f"holds signed samples as uint{bits}.*give them as int{bits}"):
        load_audio((signed.astype(f"uint{bits}"), 16_000))
    unsigned = (signed.astype(int) + 2 ** (bits - 1)).astype(f"uint{bits}")
    np.testing.assert_array_equal(load_audio((unsigned, 16_000)), load_audio((signed, 16_000)))


def test_a_tensor_of_bfloat16():
    tensor = torch.from_numpy(EXPECTED).bfloat16()
    np.testing.assert_array_equal(load_audio((tensor, RATE)), tensor.float().numpy())


def test_slightly_above_full_scale_is_accepted():
    """As resampling and files of floats make it."""
    loud = 20 * EXPECTED
    np.testing.assert_array_equal(load_audio((loud, RATE)), loud.astype(np.float32))
    square = np.sign(EXPECTED)
    np.testing.assert_array_equal(load_audio((square, RATE)), square)


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (RATE, PCM, r"is \(array, rate\), got \(rate, array\) with rate=16000: swap them"),
        (PCM.reshape(-1, 2), RATE, r"got int16 \(8000, 2\). soundfile and Gradio give .*: transpose it"),
        (np.zeros((2, 2, 8)), RATE, "must be"),
        (PCM > 0, RATE, "got bool"),
        (PCM, True, "needs its sampling rate"),
        (PCM, "16000", "needs its sampling rate in Hz: .*rate='16000'"),
        (PCM, float("inf"), "needs its sampling rate"),
        (PCM, -1, "needs its sampling rate"),
        ("call.wav", RATE, "is an array, got str: a file has its own rate"),
        (PCM.tobytes(), RATE, r"got bytes: .* numpy\.frombuffer"),
        ({"array": PCM, "sampling_rate": 8000}, RATE, "got dict"),
        ([[0.1, 0.2], [0.1]], RATE, "must have channels of one length"),
        ((PCM, 8000), RATE, "must have channels of one length"),
        (PCM, 44_100.7, r"needs its sampling rate in Hz: .*rate=44100\.7"),
        (PCM, np.float32(16_000.5), "needs its sampling rate"),
    ],
)
def test_shapes_and_rates(array, rate, message):
    with pytest.raises(ValueError, match=message):
        channels_of(array, rate)


def test_every_entry_point():
    model, processor = tiny_model(), tiny_processor()
    pipe, analyzer = AudioEmotionPipeline(model=model, processor=processor), ConversationAnalyzer(model, processor)
    expected = pipe((PCM, RATE))["scores"]
    wide = PCM.astype(np.int64)
    doors = [
        lambda samples: pipe((samples, RATE))["scores"],
        lambda samples: pipe({"audio": {"array": samples.tolist(), "sampling_rate": RATE}})["scores"],
        lambda samples: ConversationAnalyzer(model, processor).push(samples, RATE).scores,
    ]
    for door in doors:
        with pytest.warns(UserWarning, match="treated as 16-bit samples"):
            assert door(wide) == pytest.approx(expected, abs=1e-6)
        with pytest.raises(ValueError, match="has a peak of 3277, where"):
            door(PCM.astype(np.float64))
    with pytest.raises(ValueError, match="has a peak of 3277"):
        list(analyzer.push_stream([PCM.astype(np.float32)], RATE, ends=[0.5]))
