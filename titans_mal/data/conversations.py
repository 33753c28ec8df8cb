"""`load_conversations`: read any corpus, folder or Hub dataset as one table of turns."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .audio_paths import resolve_files
from .corpora import CORPORA, Corpus
from .emobox import take_emobox_splits
from .found_turns import FoundTurns
from .hub_dataset import read_hub_dataset
from .metadata_folder import read_metadata_folder
from .problems import MAX_SECONDS, Problem, UnusableTurns
from .splits import check_split_options
from .synthetic import NAMED_SUITES, SPLITS, synthetic_conversations
from .table import Conversations, LabelSet, Turn


def load_conversations(
    name_or_folder: str | Path,
    *,
    data_dir: str | Path | None = None,
    label_set: str | Sequence[str] | Mapping[str, str] | None = None,
    fold: int | None = None,
    emobox: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_seconds: float = MAX_SECONDS,
    split_longer_than: float | None = None,
    decode: bool = False,
    split_by: str | None = None,
    test_share: float | None = None,
    validation_share: float | None = None,
    split_seed: int = 0,
    strict: bool = False,
    num_proc: int | None = None,
) -> Conversations:
    """Read conversations as a table of turns, in order; turns outside the label set are kept as history.

    Args:
        name_or_folder: a corpus of `titans_mal.data.corpora.CORPORA` ("iemocap", "meld", ...), a folder with a
            `metadata.csv`, a synthetic suite ("synthetic-baseline"), or a Hub dataset ("org/name").
        data_dir: folder with your copy of a corpus.
        label_set: the name of one of the corpus' label sets ("4-class"); labels, in the order of their ids; or a
            mapping from the corpus' words to labels. Turns with other words get -1. None: the corpus' first set; for a
            folder or Hub dataset, all its labels, sorted.
        fold: for a corpus without its own splits: fold k is the test split and the others are the training split; None
            gives one split per fold.
        emobox: a clone of EmoBox, whose `fold` of the corpus defines the splits; turns that it does not list are
            processed but not scored.
        columns: for a Hub dataset whose column names differ: its column for each of ours, as
            `{"conversation_id": "dialogue", "emotion": "label"}`.
        max_seconds: a longer file is treated as wrongly cut, and only its beginning is used (its path then ends in
            `#t=0,60`, which datasets cannot embed: `save_to_disk` raises); audio that a Hub dataset holds as bytes is
            not cut.
        split_longer_than: seconds, such as the host's window: a longer file becomes several turns with the same label,
            cut at its pauses, and the later turns of its conversation are renumbered. None: no file is split. A Hub
            dataset, whose audio is not in files, cannot be split.
        decode: find broken and silent audio by decoding every file; False reads only headers.
        split_by: for data without its own splits: draw "train", "test" and "validation" by "conversation", or by
            "speaker", so that no speaker is in two of them. None: the data's own splits, or "test" if it has none.
        test_share, validation_share: for `split_by`, the minimal share of the turns; None: no such split.
        split_seed: for `split_by`, the random seed.
        strict: raise if any turn is unusable.
        num_proc: number of processes that check the files.

    Returns:
        A `DatasetDict` with the attribute `problems`, which `map` and `filter` do not pass on: for each split a
        dataset, sorted by conversation and turn, with `conversation_id` (string, the corpus' own), `turn_index`
        (position in the whole conversation, with gaps where turns were dropped), `speaker` (None if unknown), `audio`
        (`Audio(decode=False)`, for `load_audio`), `start` and `end` (seconds, None if unknown), `transcript` (None if
        unknown), `emotion` (`ClassLabel`, -1 = processed but not scored), `split`, `seconds` (of audio), and, if the
        raters' votes are known (IEMOCAP, or a column `votes` such as `happy;happy;sad`), `emotion_probabilities`,
        their shares. If any turn has them, `valence`, `arousal` and `dominance` (float32, None if unknown; from 0 to 1
        for IEMOCAP, MSP-IMPROV and MSP-Podcast, unchanged for a folder), `gender` and `language`. A warning counts the
        turns that were dropped.

    Raises:
        FileNotFoundError: for a folder that does not exist, or lacks a file that the corpus should have.
        ValueError: for an unknown label set, fold or column, a table without a required column, a split without any
            usable turn, and with `strict` for any unusable turn.
    """
    name = str(name_or_folder)
    corpus = CORPORA.get(name.lower())
    folder = Path(name).expanduser()
    is_hub = corpus is None and name not in NAMED_SUITES and not folder.exists()
    if is_hub and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise FileNotFoundError(
            f"{name!r} is neither a folder, nor a Hub dataset (org/name), nor one of {[*CORPORA, *NAMED_SUITES]}."
        )
    given = {"data_dir": data_dir, "fold": fold, "emobox": emobox, "columns": columns, "label_set": label_set}
    _check_arguments(name, corpus, is_hub, **given)
    check_split_options(split_by, test_share, validation_share)
    _check_lengths(name, is_hub, max_seconds=max_seconds, split_longer_than=split_longer_than)
    if split_by is not None and (fold is not None or name in NAMED_SUITES):
        raise ValueError(f"split_by is for data without splits, but {name!r} has splits, or fold defines them.")
    if name in NAMED_SUITES:
        suite = NAMED_SUITES[name]()
        return Conversations(
            {split: synthetic_conversations(**given, suite=suite, split=split) for split, given in SPLITS.items()}
        )
    if corpus is not None:
        source = _read_corpus(corpus, data_dir, label_set, fold, emobox)
    elif is_hub:
        source = _read_hub(name, columns or {}, label_set)
    else:
        turns, problems = read_metadata_folder(folder)
        source = FoundTurns(folder.resolve().name, turns, _own_labels(label_set, turns), problems=problems)
    if split_by is not None:
        if source.audio is not None and len(source.audio) > 1:
            raise ValueError(f"split_by is for data without splits, but {name!r} has {sorted(source.audio)}.")
        shares = {"test_share": test_share, "validation_share": validation_share}
        source.draw_splits(by=split_by, seed=split_seed, **shares)
    source.split_longer_than = split_longer_than
    most = max_seconds if split_longer_than is None else split_longer_than
    return source.inspect(max_seconds=most, decode=decode, num_proc=num_proc).tables(strict=strict)


def _read_corpus(
    corpus: Corpus, data_dir: str | Path | None, label_set, fold: int | None, emobox: str | Path | None = None
) -> FoundTurns:
    if data_dir is None:
        raise ValueError(f"{corpus.title} needs data_dir: the folder with your copy of it.")
    folder = Path(data_dir).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"data_dir of {corpus.title} is not a folder: {folder}.")
    labels = corpus.label_set(label_set)
    if emobox is None:
        corpus.check_fold(fold)
    else:
        _check_emobox(corpus, fold)
    turns, problems = corpus.read(folder)
    problems += resolve_files(turns)
    turns, problems = _without_repeated(turns, problems)
    if not turns:
        first = f": {problems[0]}" if problems else "."
        raise UnusableTurns(f"{folder} has no readable turn of {corpus.title}{first}", problems)
    if emobox is not None and fold is not None:
        _warn_of_unknown_words(corpus, turns)
        turns, extra = take_emobox_splits(turns, Path(emobox).expanduser(), corpus.name, fold)
        return FoundTurns(corpus.name, turns, replace(labels, name=f"{labels.name} (EmoBox)"), fold, problems + extra)
    present = {turn.group for turn in turns}
    problems += [
        Problem("absent", str(folder), f"there is no turn of {group}")
        for group in corpus.fold_groups
        if group not in present
    ]
    _warn_of_unknown_words(corpus, turns)
    if fold is not None and corpus.fold_groups[fold - 1] not in present:
        raise ValueError(f"{folder} has no turn of {corpus.fold_groups[fold - 1]}, the test data of fold {fold}.")
    for turn in turns:
        turn.group = corpus.split_of(turn, fold)
    return FoundTurns(corpus.name, turns, labels, fold, problems)


def _check_emobox(corpus: Corpus, fold: int | None) -> None:
    if not corpus.fold_groups:
        raise ValueError(f"{corpus.title} has official splits, which EmoBox uses too: omit emobox.")
    if isinstance(fold, bool) or not isinstance(fold, int) or fold < 1:
        raise ValueError(f"emobox needs fold, the number of a fold of EmoBox from 1, got fold={fold!r}.")


def _without_repeated(turns: list[Turn], problems: list[Problem]) -> tuple[list[Turn], list[Problem]]:
    """Keep the first turn of each audio file, since a duplicated table would double every history."""
    first: dict[str, Turn] = {}
    for turn in turns:
        if first.setdefault(turn.audio, turn) is not turn:
            place = (turn.group, turn.conversation_id)
            problems.append(Problem("repeated", turn.audio, "the corpus' table lists it twice", *place))
    return list(first.values()), problems


def _warn_of_unknown_words(corpus: Corpus, turns: list[Turn]) -> None:
    known = corpus.words
    unknown = Counter(turn.words for turn in turns if turn.words and not known.intersection(turn.words))
    if unknown:
        listed = ", ".join(f"{' '.join(words)!r} of {count}" for words, count in unknown.most_common(5))
        warnings.warn(f"{corpus.name}: unknown labels are not scored: {listed} turns.", stacklevel=5)


def _read_hub(name: str, columns: Mapping[str, str], label_set) -> FoundTurns:
    splits, problems = read_hub_dataset(name, columns)
    turns = [turn for part, _ in splits.values() for turn in part]
    audio = {split: table for split, (_, table) in splits.items()}
    return FoundTurns(name, turns, _own_labels(label_set, turns), problems=problems, audio=audio)


def _own_labels(label_set: Sequence[str] | Mapping[str, str] | None, turns: list[Turn]) -> LabelSet:
    """The label set for data without named label sets."""
    present = {word for turn in turns for word in turn.words}
    if isinstance(label_set, Mapping):
        mapping = dict(label_set)
    else:
        mapping = {word: word for word in (sorted(present) if label_set is None else label_set)}
    _warn_of_misspelt(present, mapping)
    _warn_of_capitals(present, mapping)
    return LabelSet("all" if label_set is None else "own", mapping)


def _warn_of_misspelt(present: set[str], wanted: Iterable[str]) -> None:
    """Warn if the data lacks a wanted label and also has an unwanted one, since one may be misspelt."""
    lacking, unused = sorted(set(wanted) - present), sorted(present - set(wanted))
    if lacking and unused:
        warnings.warn(
            f"No turn has the labels {lacking}, and turns with the labels {unused} are not scored.", stacklevel=5
        )


def _warn_of_capitals(present: set[str], labels: Mapping[str, str]) -> None:
    """Warn if words of the data differ only in capitals, but not all have the same label."""
    alike: dict[str, list[str]] = defaultdict(list)
    for word in sorted(present):
        alike[word.casefold()].append(word)
    for words in alike.values():
        if len({labels.get(word) for word in words}) > 1:
            warnings.warn(
                f"The labels {words} differ only in capitals, and are not one label: correct the data, or give a "
                "mapping as label_set.",
                stacklevel=5,
            )


def _check_arguments(name: str, corpus: Corpus | None, is_hub: bool, **given) -> None:
    has_label_sets = corpus is not None
    label_set = given["label_set"]
    if label_set is not None and not len(label_set):
        raise ValueError("label_set is empty: give the name of a label set of the corpus, or a list of labels.")
    if isinstance(label_set, str) and not has_label_sets:
        raise ValueError(f"{name!r} has no named label sets: give labels or a mapping, got label_set={label_set!r}.")
    _check_labels(label_set)
    meaningful = {
        "data_dir": has_label_sets,
        "fold": has_label_sets,
        "emobox": has_label_sets,
        "columns": is_hub,
        "label_set": name not in NAMED_SUITES,
    }
    for argument, has_meaning in meaningful.items():
        if given[argument] is not None and not has_meaning:
            raise ValueError(f"{argument} does not apply to {name!r}, got {given[argument]!r}.")


def _check_labels(label_set: Any) -> None:
    """Check that a label set has an order, and consists of text.

    Raises:
        ValueError: for a set, for labels that are no text, or for a list with the same label twice.
    """
    if label_set is None or isinstance(label_set, str):
        return
    if not isinstance(label_set, Mapping | Sequence):
        raise ValueError(
            f"label_set must be a list or a mapping, since labels have an order, got a {type(label_set).__name__}."
        )
    labels = [*label_set.values()] if isinstance(label_set, Mapping) else [*label_set]
    wrong = [label for label in labels if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ValueError(f"label_set must consist of text, got {wrong[0]!r}: leave out words that are not scored.")
    if not isinstance(label_set, Mapping) and len({*labels}) < len(labels):
        raise ValueError(f"label_set must not repeat a label, got {labels}.")


def _check_lengths(name: str, is_hub: bool, *, max_seconds: float, split_longer_than: float | None) -> None:
    for what, value in (("max_seconds", max_seconds), ("split_longer_than", split_longer_than)):
        if value is not None and (isinstance(value, bool | str) or not value > 0):
            raise ValueError(f"{what} must be a number above 0, got {value!r}.")
    if name in NAMED_SUITES and (max_seconds != MAX_SECONDS or split_longer_than is not None):
        raise ValueError(f"max_seconds and split_longer_than do not apply to {name!r}, whose turns are generated.")
    if split_longer_than is not None and is_hub:
        raise ValueError(
            f"split_longer_than is for audio in files, but {name!r} is a Hub dataset: save its audio to a folder with "
            "metadata.csv, or pass split_long to the pipeline."
        )
