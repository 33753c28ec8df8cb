"""Read the utterances of RAVDESS, of EmoDB, or of a folder with a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from voices import Utterance, Voices, folds_of, usable_folds

from titans_mal import load_conversations
from titans_mal.data.corpora import CORPORA
from titans_mal.data.metadata_folder import path_of
from titans_mal.data.text_files import check_field_count, read_table
from titans_mal.modeling.turn_rules import given_text


# Words of other corpora for RAVDESS's labels; a label that is not listed keeps its name.
RAVDESS_LABELS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprise": "surprised",
}
TABLE = "metadata.csv"
_REQUIRED, _OPTIONAL = ("file_name", "speaker", "emotion"), ("gender", "corpus", "licence")


def read_voices(folder: str | Path, *, mapping: dict[str, str] | None = None) -> Voices:
    """Read RAVDESS or EmoDB as they are downloaded, or a folder with a `metadata.csv`.

    Args:
        folder: of the corpus. A `metadata.csv` needs the columns `file_name` (relative to the folder), `speaker` and
            `emotion`; `gender`, `corpus` and `licence` are read where they are there. Labels are read in lower case;
            rows without a label, and rows that are repeated, are left out and counted.
        mapping: from the corpus's labels to those that are wanted; what it does not name stays. None:
            `RAVDESS_LABELS`.

    Raises:
        FileNotFoundError: for a folder that is not there, or holds no corpus that is known, and for missing audio.
        ValueError: for a table without the columns or rows, or with a row without a file or speaker, or with other
            fields than an earlier row of the same file.
    """
    folder, mapping = Path(folder).expanduser(), RAVDESS_LABELS if mapping is None else mapping
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist.")
    if (folder / TABLE).is_file():
        voices = _read_table(folder)
    elif any(folder.glob("**/Actor_*")):
        voices = _read_corpus("ravdess", folder)
    elif any(folder.glob("**/03a*.wav")):
        voices = _read_corpus("emodb", folder)
    else:
        raise FileNotFoundError(
            f"{folder} must hold {TABLE}, RAVDESS (folders such as Actor_01) or EmoDB (files such as 03a01Fa.wav)."
        )
    renamed = tuple(
        Utterance(u.path, u.speaker, mapping.get(u.emotion, u.emotion), u.gender) for u in voices.utterances
    )
    return Voices(voices.name, renamed, voices.folds, voices.licence)


def _read_table(folder: Path) -> Voices:
    table = folder / TABLE
    lines = read_table(table, dict.fromkeys((*_REQUIRED, *_OPTIONAL), ()), required=_REQUIRED)
    rows = [(line, _fields(table, line, row)) for line, row in lines]
    found: dict[Path, Utterance] = {}
    left_out: Counter[str] = Counter()
    for line, row in rows:
        if not row["emotion"]:
            left_out["without an emotion"] += 1
            continue
        path = Path(path_of(folder, row["file_name"]))
        utterance = Utterance(path, row["speaker"], row["emotion"].lower(), row["gender"])
        left_out["repeated"] += path in found
        if found.setdefault(path, utterance) != utterance:
            raise ValueError(f"{table}, line {line}: {row['file_name']} has other fields in an earlier row.")
    if not found:
        raise ValueError(f"{table} has no rows with an emotion.")
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} files of {table} do not exist, the first is {missing[0]}.")
    for reason, count in left_out.items():
        if count:
            print(f"{table}: rows left out since they are {reason}: {count}.")
    names = sorted({row["corpus"] or folder.resolve().name for _, row in rows})
    licences = sorted({row["licence"] for _, row in rows} - {""})
    speakers = {utterance.speaker for utterance in found.values()}
    return Voices("+".join(names), tuple(found.values()), folds_of(speakers), "; ".join(licences) or None)


def _fields(table: Path, line: int, row: dict) -> dict[str, str]:
    """The fields of a row, "" for those that are not given."""
    try:
        check_field_count(row)
    except ValueError as error:
        raise ValueError(f"{table}, line {line}: {error}") from None
    fields = {name: given_text(row.get(name)) for name in (*_REQUIRED, *_OPTIONAL)}
    if not (fields["file_name"] and fields["speaker"]):
        raise ValueError(f"{table}, line {line}: file_name and speaker must not be empty.")
    return fields


def _read_corpus(name: str, folder: Path) -> Voices:
    """Read a corpus with the package's reader, whose splits are the folds."""
    folds = load_conversations(name, data_dir=folder)
    utterances = []
    for table in folds.values():
        labels = table.features["emotion"]
        utterances += [
            Utterance(Path(row["audio"]["path"]), row["speaker"], labels.int2str(row["emotion"]))
            for row in table
            if row["emotion"] >= 0
        ]
    speakers = usable_folds([sorted(set(table["speaker"])) for table in folds.values()])
    return Voices(name, tuple(utterances), speakers, CORPORA[name].licence)
