"""A stream resampled in pieces is the stream resampled as a whole."""

import numpy as np
import pytest
import soxr

from titans_mal.live.stream_resampler import StreamResampler


def signal(rate, channels=1):
    return np.random.default_rng(rate).standard_normal((channels, rate // 4)).astype(np.float32)


def in_pieces(resampler, samples, rate, size):
    return [resampler.feed(samples[:, start : start + size], rate) for start in range(0, samples.shape[1], size)]


@pytest.mark.parametrize("size", [7, 400, 100_000])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2)])
def test_pieces_give_the_whole(rate, channels, size):
    samples, resampler = signal(rate, channels), StreamResampler(channels)
    pieces = np.concatenate([*in_pieces(resampler, samples, rate, size), resampler.flush()], axis=1)
    assert (pieces.dtype, pieces.shape) == (np.float32, (channels, 4000))
    np.testing.assert_allclose(pieces, soxr.resample(samples.T, rate, 16_000).T, atol=1e-5)


def test_the_own_rate_is_passed_on_and_a_new_rate_ends_the_old():
    resampler, own, low = StreamResampler(), signal(16_000), signal(8000)
    np.testing.assert_array_equal(resampler.feed(own, 16_000), own)
    after_low = resampler.feed(low, 8000)
    changed = resampler.feed(own, 16_000)
    # Nothing of the slower part is lost: 4000 samples at 16 kHz, before those of the next piece.
    assert after_low.shape[1] + changed.shape[1] == 4000 + own.shape[1]
    np.testing.assert_array_equal(changed[:, -own.shape[1] :], own)
    assert resampler.flush().shape == (1, 0)
