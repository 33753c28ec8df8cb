"""Sound from files, bytes and arrays; it lives in `modeling`, for the pipeline takes it along to the Hub."""

from ..modeling.audio_loading import AudioDecodingError, check_waveform, load_audio


__all__ = ["AudioDecodingError", "check_waveform", "load_audio"]
