"""Audio files in memory, in whatever format a test needs."""

from __future__ import annotations

import io
import wave

import av
import numpy as np


RATE = 16_000


def to_wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """(samples,) or (channels, samples) float as 16-bit WAV."""
    samples = np.atleast_2d(samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples.T * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def encode(samples: np.ndarray, codec: str, container: str, *, rate: int = RATE, layout: str = "mono", fmt="s16"):
    """Bytes of (channels, samples) in any format that FFmpeg writes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        if fmt.endswith("p"):
            data = np.ascontiguousarray(np.atleast_2d(samples).astype(np.float32))
        else:
            data = np.ascontiguousarray((np.atleast_2d(samples).T * 32767).astype(np.int16)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(data, format=fmt, layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return buffer.getvalue()
