"""Checks of a file's headers beside FFmpeg: placeholders, truncated or plain WAV, chained Ogg streams."""

from __future__ import annotations

import os
from typing import BinaryIO

from .audio_checks import AudioDecodingError


# Format tags of WAV: PCM, float, A-law and mu-law.
_PLAIN_WAV = {1, 3, 6, 7}
# First bytes of the placeholders of Git LFS and git-annex, which a clone has in place of a file until it is fetched.
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": ("a Git LFS", "git lfs pull"),
    b"/annex/objects/": ("a git-annex", "git annex get"),
}
# Number of first bytes that the checks of a file's beginning take; 24 reach the channels of a WAV file.
HEAD_BYTES = max(24, *map(len, _POINTERS))


def check_pointer(content: bytes, name: str) -> None:
    """Reject the placeholder that a clone has in place of a file until it is fetched.

    Args:
        content: the first bytes of the file, or all of them.
        name: name of the file.

    Raises:
        AudioDecodingError: naming the command that fetches it.
    """
    for start, (kind, command) in _POINTERS.items():
        if content.startswith(start):
            raise AudioDecodingError(f"{name} is {kind} pointer and not the file itself: `{command}` fetches it.")


def is_riff(head: bytes) -> bool:
    """Whether a file is in a RIFF container, such as WAV and AVI."""
    return head[:4] == b"RIFF"


def check_wav_size(head: bytes, size: int, name: str) -> None:
    """Reject a truncated WAV file, which FFmpeg reads without an error.

    Args:
        head: the first bytes of a WAV file.
        size: number of bytes of the file.
        name: name of the file.

    Raises:
        AudioDecodingError: with both sizes.
    """
    declared = int.from_bytes(head[4:8], "little")
    # Writers to a pipe leave the size open, and some count a final padding byte that they do not write.
    if declared not in (0, 0xFFFFFFFF) and declared + 8 > size + 1:
        raise AudioDecodingError(f"{name}: truncated, it holds {size} bytes of the declared {declared + 8}.")


def is_plain_wav(head: bytes) -> bool:
    """Whether a WAV file begins with the format of one channel of PCM, float, A-law or mu-law samples.

    Stereo PCM may hold a DTS stream, which only more of its content shows.
    """
    tag, channels = int.from_bytes(head[20:22], "little"), int.from_bytes(head[22:24], "little")
    return head[8:16] == b"WAVEfmt " and tag in _PLAIN_WAV and channels == 1


def is_chained(file: BinaryIO) -> bool:
    """Whether an Ogg file holds streams one after the other (RFC 3533, section 4), of which it declares only the last.

    Only the headers of its pages (section 6) are read.

    Args:
        file: at its start; it is read to its end.
    """
    has_content = False
    while len(header := file.read(27)) == 27 and header.startswith(b"OggS"):
        begins_stream = bool(header[5] & 2)
        if begins_stream and has_content:
            return True
        has_content = has_content or not begins_stream
        file.seek(sum(file.read(header[26])), os.SEEK_CUR)
    return False
