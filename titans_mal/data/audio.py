"""Sound from files, bytes and arrays; it lives in `modeling`, for the pipeline takes it along to the Hub."""

from ..modeling.audio_loading import AudioDecodingError, audio_seconds, check_waveform, load_audio, part_of_file


__all__ = ["AudioDecodingError", "audio_seconds", "check_waveform", "load_audio", "part_of_file"]
