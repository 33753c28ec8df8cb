"""Export the turns of a conversation to file formats of other tools."""

from __future__ import annotations

import csv
import html
import io
import json
import reprlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .extras import extra
from .safe_text import csv_cell, encodable


Turn = Mapping[str, Any]

UNKNOWN = "unknown"
_FIELDS = ("conversation_id", "turn_index", "speaker", "start", "end", "file", "label", "score", "surprise")
# Behind the scores, so that the columns before keep their places.
_LAST = "processed_seconds"


def choose_label(
    scores: Mapping[str, float], *, labels: Sequence[str] | None = None, unknown_below: float = 0.0
) -> tuple[str | None, float | None, dict[str, float]]:
    """Choose a turn's label among all or some of the labels.

    Args:
        scores: probability of each label.
        labels: the labels to choose among, whose probabilities are renormalised to sum to 1; None = all.
        unknown_below: the label is "unknown" if the most probable label is less probable than this.

    Returns:
        The label, the probability of the most probable label, and all probabilities; (None, None, {}) without scores.

    Raises:
        ValueError: for labels that are not in `scores`, or an `unknown_below` outside of [0, 1].
    """
    labels = check_labels(list(scores), labels, unknown_below)
    if not labels:
        return None, None, {}
    total = sum(scores[label] for label in labels)
    # If all are rounded to zero, they are equally probable.
    chosen = {label: scores[label] / total if total else 1 / len(labels) for label in labels}
    best = max(chosen, key=lambda label: chosen[label])
    return (best if chosen[best] >= unknown_below else UNKNOWN), chosen[best], chosen


def check_labels(known: Sequence[str], labels: Sequence[str] | None, unknown_below: float) -> list[str]:
    """The labels to choose among; errors as `choose_label`."""
    labels = list(known if labels is None else labels)
    if (known and not labels) or len(set(labels)) < len(labels) or not set(labels) <= set(known):
        raise ValueError(f"labels must be different labels out of {list(known)}, got {reprlib.repr(labels)}.")
    if isinstance(unknown_below, str) or not 0 <= unknown_below <= 1:
        raise ValueError(f"unknown_below must be in [0, 1], got {unknown_below!r:.60}.")
    return labels


def export_turns(turns: Sequence[Turn], name: str) -> str:
    """Export turns as the text of a file.

    Args:
        turns: as returned by `AudioEmotionPipeline`.
        name: one of `FORMATS`. "rttm", "vtt" and "textgrid" need turns of a single conversation, with their times.

    Raises:
        ValueError: for another name, or turns without times or of several conversations.
    """
    if name not in FORMATS:
        raise ValueError(f"format must be one of {list(FORMATS)}, got {name!r}.")
    if name in ("rttm", "vtt", "textgrid"):
        if not turns or not all(_has_times(turn) for turn in turns):
            raise ValueError(f"The format {name} needs at least one turn, and the start and end of every turn.")
        conversations = sorted({str(turn.get("conversation_id")) for turn in turns})
        if len(conversations) > 1:
            raise ValueError(f"The format {name} needs turns of one conversation, got {conversations}.")
    return encodable(FORMATS[name](turns))


def _has_times(turn: Turn) -> bool:
    start, end = turn.get("start"), turn.get("end")
    return start is not None and end is not None and 0 <= start < end < float("inf")


def _json(turns: Sequence[Turn]) -> str:
    return json.dumps(list(turns), indent=2, ensure_ascii=False) + "\n"


def _jsonl(turns: Sequence[Turn]) -> str:
    return "".join(json.dumps(turn) + "\n" for turn in turns)


def _csv(turns: Sequence[Turn]) -> str:
    labels = list(turns[0]["scores"]) if turns else []
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, lineterminator="\n")
    dimensions = list(turns[0].get("values") or ()) if turns else []
    table.writerow([*_FIELDS, *(csv_cell(f"score_{label}") for label in labels), *map(csv_cell, dimensions), _LAST])
    for turn in turns:
        numbers = [*(turn["scores"][label] for label in labels), *(turn["values"][name] for name in dimensions)]
        table.writerow([*(csv_cell(turn.get(name)) for name in _FIELDS), *numbers, csv_cell(turn.get(_LAST))])
    return buffer.getvalue()


def _rttm(turns: Sequence[Turn]) -> str:
    """Rich Transcription Time Marked (NIST 2009): the label is the subtype, its probability the confidence."""
    lines = []
    for turn in turns:
        name = "_".join(str(turn.get("conversation_id") or "").split()) or "recording"
        speaker = "_".join(_speaker(turn).split())
        duration = turn["end"] - turn["start"]
        label = "<NA>" if turn["label"] is None else "_".join(turn["label"].split())
        score = "<NA>" if turn["score"] is None else f"{turn['score']:.3f}"
        lines.append(f"SPEAKER {name} 1 {turn['start']:.3f} {duration:.3f} <NA> {label} {speaker} {score} <NA>\n")
    return "".join(lines)


def check_package(name: str) -> None:
    """Check that the package that a format needs is installed.

    Raises:
        MissingExtraError: naming the missing package.
    """
    if name == "vtt":
        _webvtt()
    elif name == "textgrid":
        _praatio()


def _webvtt():
    with extra("formats", "WebVTT"):
        import webvtt
    return webvtt


def _praatio():
    with extra("formats", "A TextGrid"):
        import praatio.textgrid
    return praatio.textgrid


def _vtt(turns: Sequence[Turn]) -> str:
    webvtt = _webvtt()

    def escape(text: str) -> str:
        return html.escape(" ".join(text.split()), quote=False)

    captions = [
        webvtt.Caption(
            _clock(turn["start"]), _clock(turn["end"]), f"<v {_speaker(turn, escape)}>{escape(describe_turn(turn))}"
        )
        for turn in turns
    ]
    return webvtt.WebVTT(captions=captions).content


def _textgrid(turns: Sequence[Turn]) -> str:
    """One tier per speaker; if turns of a speaker overlap, the earlier one ends where the later one starts."""
    textgrid = _praatio()
    end = max(turn["end"] for turn in turns)
    tiers: dict[str, list[list]] = {}
    for turn in sorted(turns, key=lambda turn: turn["start"]):
        intervals = tiers.setdefault(_speaker(turn), [])
        if intervals and intervals[-1][1] > turn["start"]:
            intervals[-1][1] = turn["start"]
        intervals.append([turn["start"], turn["end"], describe_turn(turn)])
    grid = textgrid.Textgrid()
    for speaker, intervals in tiers.items():
        kept = [tuple(interval) for interval in intervals if interval[0] < interval[1]]
        grid.addTier(textgrid.IntervalTier(speaker, kept, 0, end))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turns.TextGrid"
        grid.save(str(path), format="long_textgrid", includeBlankSpaces=True)
        return path.read_text(encoding="utf-8")


def _speaker(turn: Turn, escape: Callable[[str], str] = str) -> str:
    """The speaker's name on one line, without the character that would end it in WebVTT."""
    speaker = turn.get("speaker")
    return "unknown" if speaker is None else escape(" ".join(str(speaker).replace(">", " ").split())) or "unknown"


def describe_turn(turn: Turn) -> str:
    """Label and values of a turn as text: "happy 71%, valence 0.62"."""
    label = [] if turn["label"] is None else [f"{turn['label']} {turn['score']:.0%}"]
    return ", ".join([*label, *(f"{name} {value:.2f}" for name, value in (turn.get("values") or {}).items())])


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


FORMATS: dict[str, Callable[[Sequence[Turn]], str]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "rttm": _rttm,
    "vtt": _vtt,
    "textgrid": _textgrid,
}
