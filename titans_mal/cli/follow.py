"""`titans-mal analyze --follow`: print turns of raw audio from standard input as they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import typer

from ..export import describe_turn
from ..safe_text import printable


_SECONDS = 0.1  # of audio per read


def follow_stream(
    model_name: str,
    sampling_rate: int,
    speaker: str | None,
    format: str,
    *,
    labels: Sequence[str] | None,
    unknown_below: float,
    split_long: bool = False,
) -> None:
    """Process standard input until it ends, and print each turn when it has ended.

    Args:
        format: "table" (a readable line) or "jsonl".
    """
    from transformers import AutoProcessor

    from titans_mal import AutoModelForAudioEmotion, ConversationAnalyzer

    model = AutoModelForAudioEmotion.from_pretrained(model_name)
    processor = AutoProcessor.from_pretrained(model_name)
    analyzer = ConversationAnalyzer(model, processor, labels=labels, unknown_below=unknown_below)
    pieces = _pieces(sampling_rate)
    for turn in analyzer.push_stream(pieces, sampling_rate, speaker=speaker, split_long=split_long):
        if format == "jsonl":
            typer.echo(json.dumps(asdict(turn)))
        else:
            name = "" if turn.speaker is None else f"  {turn.speaker}"
            times = f"{turn.start:8.2f}-{turn.end:.2f} s"
            emotion = describe_turn(asdict(turn))
            typer.echo(printable(f"{turn.turn_index:4d}  {times}{name}  {emotion}  surprise {turn.surprise:.2f}"))
        sys.stdout.flush()


def _pieces(sampling_rate: int) -> Iterator[np.ndarray]:
    """Pieces of audio as they arrive; an incomplete sample at the end is dropped."""
    size = max(2, round(_SECONDS * sampling_rate) * 2)
    rest = b""
    # A method of what standard input is, though not of every binary stream.
    while content := sys.stdin.buffer.read1(size):  # type: ignore[union-attr]
        content = rest + content
        whole = len(content) // 2 * 2
        rest = content[whole:]
        yield np.frombuffer(content[:whole], "<i2")
