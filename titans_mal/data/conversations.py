"""`load_conversations`: any corpus, folder or Hub dataset as one table of turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Audio, Dataset, concatenate_datasets

from .._version import __version__
from .corpora import CORPORA, Corpus
from .hub_dataset import read_hub_dataset
from .metadata_folder import METADATA_FILE, read_metadata_folder
from .problems import LEFT_OUT, MAX_SECONDS, Problem, look_at, report_problems
from .synthetic import SUITES, synthetic_conversations
from .table import COLUMNS, Conversations, LabelSet, Turn, features_of


def load_conversations(
    name_or_folder: str | Path,
    *,
    data_dir: str | Path | None = None,
    label_set: str | Sequence[str] | Mapping[str, str] | None = None,
    fold: int | None = None,
    columns: Mapping[str, str] | None = None,
    max_seconds: float = MAX_SECONDS,
    decode: bool = False,
    strict: bool = False,
    num_proc: int | None = None,
) -> Conversations:
    """Read conversations: every turn, in order, with those outside of the label set as history.

    Args:
        name_or_folder: a corpus of `titans_mal.data.corpora.CORPORA` ("iemocap", "meld", ...), a folder with a
            `metadata.csv`, a made-up suite ("synthetic-baseline"), or the name of a Hub dataset ("org/name").
        data_dir: where a corpus lies.
        label_set: a name of the corpus's label sets ("4-class"); labels, in the order of their ids; or a mapping from
            the corpus's words to labels. Turns of other words get -1. None: the corpus's first set; of a folder or
            Hub dataset all labels, sorted or as its `ClassLabel` has them.
        fold: for a corpus without splits of its own: fold k is the test split and the others are the training split;
            None gives a split for each fold.
        columns: of a Hub dataset: its column for each of ours where the names differ,
            `{"conversation_id": "dialogue", "emotion": "label"}`.
        max_seconds: longer turns are bad cuts; their beginning of that length is heard.
        decode: look for broken sound by decoding every file; False looks at their headers.
        strict: raise where a turn cannot be used.
        num_proc: processes that look at the files.

    Returns:
        A `DatasetDict` with `problems`: for each split a dataset, sorted by conversation and turn, with
        `conversation_id` (string, the corpus's own), `turn_index` (its place in the whole conversation; where turns
        are left out it has gaps), `speaker` (who talks), `audio` (`Audio(decode=False)`, for `load_audio`), `start`
        and `end` (seconds, None where not told), `transcript` (None where not told), `emotion` (`ClassLabel`, -1 =
        heard and not scored), `split`, `seconds` (of sound).

    Raises:
        FileNotFoundError: for a folder that is not there, or without what the corpus should have.
        ValueError: for an unknown label set, fold or column, a table that is wrong, naming the line, and with `strict`
            for turns that cannot be used.
    """
    if label_set is not None and not isinstance(label_set, str) and not len(label_set):
        raise ValueError("label_set is empty: name a set, or give labels.")
    if not max_seconds > 0:
        raise ValueError(f"max_seconds must be above 0, got {max_seconds!r}.")
    name = str(name_or_folder)
    corpus = CORPORA.get(name.lower())
    for argument, value, belongs in (
        ("data_dir", data_dir, corpus is not None),
        ("fold", fold, corpus is not None),
        ("columns", columns, corpus is None and name not in SUITES and not Path(name).exists()),
    ):
        if value is not None and not belongs:
            raise ValueError(f"{argument}={value!r} has no meaning for {name!r}.")
    if name in SUITES:
        splits = {split: synthetic_conversations(**SUITES[name][split]) for split in ("train", "test")}
        return _relabelled(Conversations(splits), name, label_set)
    problems: list[Problem] = []
    if corpus is not None:
        if data_dir is None:
            raise ValueError(f"{corpus.title} needs data_dir: where your copy of it lies.")
        turns, problems = corpus.read(Path(data_dir))
        labels = corpus.label_set(label_set)
        turns = corpus.in_splits(turns, fold)
    elif Path(name).exists():
        turns = read_metadata_folder(Path(name))
        labels = _own_labels(label_set, sorted({turn.label for turn in turns if turn.label}))
    else:
        table = read_hub_dataset(name, columns or {})
        return _looked_at(table, problems, name, label_set, max_seconds, decode, strict, num_proc)
    table = _write_table(turns, labels, num_proc)
    title = corpus.name if corpus is not None else Path(name).resolve().name
    config = labels.name if fold is None else f"{labels.name}, fold {fold}"
    return _use(table, problems, title, config, max_seconds, decode, strict, num_proc)
