"""Archives of thousands of recordings, with one result each, processed by several processes and resumable runs."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .data.audio_paths import is_audio
from .data.problems import LEFT_OUT
from .data.recordings import read_recording
from .data.text_files import read_text
from .live.channels import channel_turns
from .live.pool import ConversationPool, PoolError
from .live.turn_detector import spoken_turns
from .live.turns import RATE
from .modeling.atomic_files import replace_text, replacing
from .progress import with_progress
from .safe_text import csv_cell, encodable
from .saved_options import differing_options


# Number of recordings whose turns are batched together.
_TOGETHER = 16
_RUN, _SUMMARY, _PROBLEMS = "run.json", "summary.csv", "problems.csv"


@dataclass(frozen=True)
class Recording:
    """A recording of an archive.

    Attributes:
        path: path of the audio file.
        name: name of its result in the output folder, without ".json".
    """

    path: Path
    name: str


@dataclass
class RecordingResult:
    """The result of a recording.

    Attributes:
        recording: its path.
        turns: `TurnEmotion`s as dicts.
        problems: dropped turns, or why there are no turns.
    """

    recording: str
    turns: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_recordings(archive: str | Path) -> list[Recording]:
    """The recordings of a folder and its subfolders, or of a list: a text file with one path per line.

    Args:
        archive: the folder or the list; paths in a list are relative to its folder, and missing files are reported as
            problems later.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it has no recordings.
    """
    archive = Path(archive)
    if archive.is_dir():
        root = archive
        paths = sorted(path for path in archive.rglob("*") if is_audio(path.name) and path.is_file())
    else:
        root = archive.parent
        lines = read_text(archive).splitlines()
        paths = [root / line.strip() for line in lines if line.strip()]
    if not paths:
        raise ValueError(
            f"{archive} has no recordings: give a folder of audio files, or a file with one path per line."
        )
    return [Recording(path, _result_name(path, root)) for path in dict.fromkeys(paths)]


def _result_name(path: Path, root: Path) -> str:
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
    if inside:
        return str(Path(os.path.normpath(path)).relative_to(os.path.normpath(root)))
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


class ArchiveRun:
    """The results of an archive in a folder; finished recordings are not processed again.

    Args:
        folder: created if it does not exist.
        settings: settings that determine the results; a folder with other settings is rejected. `weights`, a
            fingerprint of the model, is not compared if the folder is of an earlier version, which did not write it.

    Raises:
        ValueError: for a folder with other settings, naming what differs.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        path, now = self._folder / _RUN, json.loads(json.dumps(settings))
        if not path.exists():
            replace_text(path, json.dumps(now, indent=2))
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = differing_options(before, now, ignored=() if "weights" in before else ("weights",))
        if differing:
            raise ValueError(
                f"{self._folder} holds results with a different {' and '.join(differing)}: choose another folder."
            )

    def read(self, recording: Recording) -> RecordingResult | None:
        """The result of a recording; None if it is not finished."""
        try:
            return RecordingResult(**json.loads(self._path(recording).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def is_done(self, recording: Recording) -> bool:
        """Whether a recording is finished; one without turns is tried again."""
        result = self.read(recording)
        return result is not None and bool(result.turns)

    def write(self, recording: Recording, result: RecordingResult) -> None:
        path = self._path(recording)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, encodable(json.dumps(asdict(result), indent=2, ensure_ascii=False)) + "\n")

    def write_tables(self, recordings: Sequence[Recording]) -> tuple[int, int]:
        """Write summary.csv, with one row per recording, and problems.csv; return the numbers of both."""
        results = [found for found in map(self.read, recordings) if found is not None]
        labels = sorted({turn["label"] for result in results for turn in result.turns if turn["label"] is not None})
        problems = [[result.recording, problem] for result in results for problem in result.problems]
        rows = [_summary_row(result, labels) for result in results]
        head = ["recording", "turns", "speakers", "seconds", *(f"share_{label}" for label in labels), "problems"]
        _write_table(self._folder / _SUMMARY, head, rows)
        _write_table(self._folder / _PROBLEMS, ["recording", "problem"], problems)
        return len(rows), len(problems)

    def _path(self, recording: Recording) -> Path:
        return self._folder / f"{recording.name}.json"


def analyze_archive(
    recordings: Sequence[Recording],
    pool: ConversationPool,
    run: ArchiveRun,
    *,
    speakers: Sequence[str] | None = None,
    split_long: bool = False,
    description: str = "recordings",
) -> None:
    """Score each unfinished recording, several at a time, and write its result.

    A recording is split by an .rttm file of the same name beside it, at the pauses of each channel if `speakers` are
    given, or at pauses in speech. Errors become problems of the recording's result, and the others continue.

    Args:
        recordings: the recordings of this process.
        pool: scores the turns.
        run: the results.
        speakers: the speaker on each channel; None: channels are mixed.
        split_long: score turns that are longer than the host's window as several, cut at their pauses.
    """
    left = [recording for recording in recordings if not run.is_done(recording)]

    def one(recording: Recording) -> None:
        run.write(recording, _result_of(recording, pool, speakers, split_long))

    with ThreadPoolExecutor(_TOGETHER) as threads:
        for _ in with_progress(threads.map(one, left), total=len(left), description=description):
            pass


def _result_of(
    recording: Recording, pool: ConversationPool, speakers: Sequence[str] | None, split_long: bool
) -> RecordingResult:
    result = RecordingResult(str(recording.path))
    # A path may be longer than the maximal length of a name.
    conversation = hashlib.sha256(recording.name.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        for audio, speaker, start, end in _turns(recording.path, speakers, result.problems):
            given: dict[str, Any] = {"sampling_rate": None if isinstance(audio, str) else RATE, "speaker": speaker}
            try:
                if split_long:
                    pieces = pool.submit_split(conversation, audio, start=start, **given)
                    result.turns.extend(asdict(piece.result()) for piece in pieces)
                else:
                    result.turns.append(asdict(pool.push(conversation, audio, start=start, **given)))
            except (ValueError, PoolError) as error:
                result.problems.append(f"turn from {start:.2f} to {end:.2f} s: {error}")
        if not result.turns and not result.problems:
            result.problems.append("no speech was found")
    except (ValueError, OSError) as error:
        result.problems.append(str(error))
    finally:
        pool.forget(conversation)
    return result


def _turns(
    path: Path, speakers: Sequence[str] | None, problems: list[str]
) -> Iterator[tuple[Any, str | None, float, float]]:
    """Audio, speaker, start and end of each turn of a recording; dropped segments are added to `problems`."""
    beside = (path.with_suffix(suffix) for suffix in (".rttm", ".RTTM"))
    if (segments := next(filter(Path.is_file, beside), None)) is not None:
        found = read_recording(path, segments)
        problems += [str(problem) for problem in found.problems if problem.kind in LEFT_OUT]
        found.check_usable()
        found.warn_of_channels()
        for row in sorted(found.rows, key=lambda row: row["end"]):
            yield row["audio"]["path"], row["speaker"], row["start"], row["end"]
    elif speakers is not None:
        for channel, turn in channel_turns(path, speakers):
            yield turn.waveform, speakers[channel], turn.start, turn.end
    else:
        for turn in spoken_turns(path):
            yield turn.waveform, None, turn.start, turn.end


def _summary_row(result: RecordingResult, labels: Sequence[str]) -> list[Any]:
    counts = Counter(turn["label"] for turn in result.turns)
    labelled = sum(counts[label] for label in labels)
    speakers = {turn["speaker"] for turn in result.turns} - {None}
    shares = [round(counts[label] / labelled, 4) if labelled else "" for label in labels]
    seconds = round(sum(turn["end"] - turn["start"] for turn in result.turns), 3)
    return [result.recording, len(result.turns), len(speakers), seconds, *shares, len(result.problems)]


def _write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(map(csv_cell, head))
        table.writerows([csv_cell(encodable(cell) if isinstance(cell, str) else cell) for cell in row] for row in rows)
