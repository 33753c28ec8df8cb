"""Statistics of a table of conversations: turns, speakers, hours, labels, history, problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from datasets import Dataset

from .corpora import CORPORA
from .problems import KINDS, Problem


# Ranges of the number of earlier turns of the same speaker, for results by history.
DEPTHS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))


def depth_name(depth: int) -> str:
    """The name of the range in `DEPTHS` that contains a number of earlier turns, such as "3-4" or "17+"."""
    first, last = next((first, last) for first, last in DEPTHS if last is None or depth <= last)
    return f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"


def history_depths(conversation_ids: Iterable[str], speakers: Iterable[str]) -> list[int]:
    """For each turn, in order, the number of earlier turns of its conversation with the same speaker."""
    seen: Counter = Counter()
    depths = []
    for speaker in zip(conversation_ids, speakers):
        depths.append(seen[speaker])
        seen[speaker] += 1
    return depths


def overview(conversations: Mapping[str, Dataset], problems: Iterable[Problem] | None = None) -> dict:
    """Counts for each split, and of the problems by kind, as plain numbers.

    Args:
        problems: None: those of the conversations.

    Returns:
        `{"splits": {split: {turns, scored, conversations, speakers, speaker_names, hours, labels, history}},
        "problems": {kind: n}}`. In a corpus, a speaker's name identifies a person; elsewhere only within its
        conversation (like A and B), and `speakers` counts pairs of conversation and name. `history` counts the scored
        turns by the number of earlier turns of their speaker.
    """
    if problems is None:
        problems = getattr(conversations, "problems", ())
    return {
        "splits": {split: _of_split(table) for split, table in conversations.items()},
        "problems": dict(Counter(problem.kind for problem in problems)),
    }


def _of_split(table: Dataset) -> dict:
    names = table.features["emotion"].names
    columns = table.select_columns(["conversation_id", "speaker", "emotion", "seconds"]).to_dict()
    scored = [emotion >= 0 for emotion in columns["emotion"]]
    named = [(talk, name) for talk, name in zip(columns["conversation_id"], columns["speaker"]) if name is not None]
    persons = {name for _, name in named}
    depths = history_depths(columns["conversation_id"], columns["speaker"])
    history = Counter(depth_name(depth) for depth, counts in zip(depths, scored) if counts)
    return {
        "turns": table.num_rows,
        "scored": sum(scored),
        "conversations": len(set(columns["conversation_id"])),
        "speakers": len(persons if table.info.dataset_name in CORPORA else set(named)),
        "speaker_names": len(persons),
        "hours": sum(filter(None, columns["seconds"])) / 3600,
        "labels": {name: columns["emotion"].count(index) for index, name in enumerate(names)},
        "history": {name: history[name] for name in map(depth_name, (first for first, _ in DEPTHS))},
    }


def list_problems(problems: Iterable[Problem], *, most: int = 20) -> list[str]:
    """Lines with the number of problems of each kind and their consequence, and the first `most` of each kind."""
    lines = []
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    for kind, found in by_kind.items():
        lines.append(f"{len(found)} {kind} ({KINDS[kind]})")
        lines += [f"  {problem.file}: {problem.detail}" for problem in found[:most]]
        lines += [f"  ... and {len(found) - most} more"] if len(found) > most else []
    return lines
