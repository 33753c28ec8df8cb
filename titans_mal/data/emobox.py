"""The splits of EmoBox (Ma et al. 2024, arXiv 2406.07162), for comparison with published numbers.

    git clone https://github.com/emo-box/EmoBox
    EmoBox/data/ravdess/fold_1/ravdess_{train,valid,test}_fold_1.jsonl     {"wav": ".../03-01-01-01-01-01-01.wav", ...}

Its lists are read from a clone, since some of its folds were drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..modeling.json_text import parse_json
from .problems import Problem
from .table import Turn
from .text_files import read_text


_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def take_emobox_splits(
    turns: Sequence[Turn], folder: Path, corpus: str, fold: int
) -> tuple[list[Turn], list[Problem]]:
    """Assign each turn the split of EmoBox's lists; turns that are not listed are history, and not scored.

    Args:
        turns: all turns of a corpus; modified in place.
        folder: EmoBox's `data`, or its clone.
        corpus: our name of it.
        fold: number of the fold, from 1.

    Returns:
        The turns of conversations with a listed turn, and the number of other turns.

    Raises:
        FileNotFoundError: if there are no such lists.
        ValueError: for unreadable lists, lists without a turn of the corpus, or that divide a conversation.
    """
    listed = _read_lists(folder, corpus.replace("-", ""), fold)
    splits: dict[str, str] = {}
    for turn in turns:
        split = listed.get(_stem(turn.audio))
        if split is None:
            turn.words, turn.votes, turn.more = (), (), {name: turn.more.get(name) for name in ("gender", "language")}
        elif splits.setdefault(turn.conversation_id, split) != split:
            raise ValueError(
                f"EmoBox's fold {fold} of {corpus} has turns of {turn.conversation_id!r} in {split!r} and in "
                f"{splits[turn.conversation_id]!r}, so a memory of whole conversations cannot be evaluated on it."
            )
    kept = [turn for turn in turns if turn.conversation_id in splits]
    if not kept:
        raise ValueError(f"EmoBox's fold {fold} of {corpus} in {folder} lists none of the turns in data_dir.")
    for turn in kept:
        turn.group = splits[turn.conversation_id]
    missing = len(turns) - len(kept)
    detail = f"{missing} turns, of conversations that EmoBox's fold {fold} does not list"
    return kept, [Problem("extra", str(folder), detail)] if missing else []


def _read_lists(folder: Path, corpus: str, fold: int) -> dict[str, str]:
    """The split of each listed file, by its name without folder and suffix."""
    roots = [root for root in (folder / corpus, folder / "data" / corpus) if root.is_dir()]
    found = [root / f"fold_{fold}" for root in roots if (root / f"fold_{fold}").is_dir()]
    if not found:
        known = sorted(path.name for root in roots for path in root.glob("fold_*"))
        raise FileNotFoundError(f"{folder} has no fold_{fold} of {corpus}; its folds are {known}.")
    splits: dict[str, str] = {}
    for part, split in _SPLITS.items():
        path = found[0] / f"{corpus}_{part}_fold_{fold}.jsonl"
        if part == "valid" and not path.is_file():
            continue
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            file = parse_json(line, f"{path}, line {number}", dict).get("wav") if line.strip() else ""
            if not isinstance(file, str):
                raise ValueError(f"{path}, line {number}: wav must name a file, got {file!r:.100}.")
            splits |= {_stem(file): split} if file else {}
    return splits


def _stem(path: str) -> str:
    return Path(path).stem.lower()
