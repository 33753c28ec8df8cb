"""Single utterances of a corpus of human voices, with their speakers and folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from titans_mal import load_conversations
from titans_mal.data.corpora.corpus import read_csv
from titans_mal.data.virtual_speakers import VirtualSpeaker, other_voices


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
MOST_FOLDS, FEWEST_SPEAKERS = 6, 2


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Attributes:
        path: of the file.
        speaker, emotion: names.
        gender: of the speaker; "" if the table does not say.
        change: of the recording, for a virtual speaker; None: as it is.
    """

    path: Path
    speaker: str
    emotion: str
    gender: str = ""
    change: VirtualSpeaker | None = None


@dataclass(frozen=True)
class Voices:
    """The utterances of one corpus.

    Attributes:
        name: of the corpus, or of its folder.
        utterances: in the order of the corpus.
        folds: the test speakers of fold 1, 2, ...
        licence: as the table states it; None if it does not.
    """

    name: str
    utterances: tuple[Utterance, ...]
    folds: tuple[tuple[str, ...], ...]
    licence: str | None = None

    @property
    def labels(self) -> list[str]:
        return sorted({utterance.emotion for utterance in self.utterances})

    @property
    def speakers(self) -> list[str]:
        return sorted({utterance.speaker for utterance in self.utterances})

    def keep(self, labels: Sequence[str]) -> Voices:
        """The utterances of some labels; a speaker without any is in no fold.

        Raises:
            ValueError: for a label that no utterance has.
        """
        unknown = sorted(set(labels) - set(self.labels))
        if unknown:
            raise ValueError(f"{self.name} has no utterances labelled {unknown}; it has {self.labels}.")
        kept = tuple(utterance for utterance in self.utterances if utterance.emotion in labels)
        speakers = {utterance.speaker for utterance in kept}
        folds = [tuple(name for name in fold if name in speakers) for fold in self.folds]
        return Voices(self.name, kept, tuple(fold for fold in folds if len(fold) >= FEWEST_SPEAKERS), self.licence)

    def in_other_voices(self, speakers: Sequence[str], copies: int) -> Voices:
        """These utterances, and copies of those of some speakers in other voices, each copy as another speaker."""
        added = [
            replace(utterance, speaker=f"{utterance.speaker}_voice{copy}", change=voices[utterance.speaker])
            for copy in range(1, copies + 1)
            for voices in [other_voices(speakers, copy)]
            for utterance in self.utterances
            if utterance.speaker in speakers
        ]
        return replace(self, utterances=(*self.utterances, *added))

    def arrays(self, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(utterances,) int each: number of the speaker in `speakers`, and of the emotion in `labels`."""
        speakers = {name: number for number, name in enumerate(self.speakers)}
        numbers = {label: number for number, label in enumerate(labels)}
        pairs = [(speakers[utterance.speaker], numbers[utterance.emotion]) for utterance in self.utterances]
        return tuple(np.array(pairs).T)


def read_voices(folder: str | Path, *, mapping: dict[str, str] | None = None) -> Voices:
    """Read RAVDESS or EmoDB as they are downloaded, or a folder with a `metadata.csv`.

    Args:
        folder: of the corpus. A `metadata.csv` needs the columns `file_name` (relative to the folder), `speaker` and
            `emotion`; `gender`, `corpus` and `licence` are read where they are there.
        mapping: from the corpus's labels to those that are wanted; what it does not name stays. None:
            `RAVDESS_LABELS`.

    Raises:
        FileNotFoundError: for a folder that is not there, or holds no corpus that is known.
        ValueError: for a table without the columns, or fewer than four speakers.
    """
    folder, mapping = Path(folder).expanduser(), RAVDESS_LABELS if mapping is None else mapping
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist.")
    if (folder / "metadata.csv").is_file():
        voices = _read_table(folder)
    elif any(folder.glob("**/Actor_*")):
        voices = _read_corpus("ravdess", folder)
    elif any(folder.glob("**/03a*.wav")):
        voices = _read_corpus("emodb", folder)
    else:
        raise FileNotFoundError(
            f"{folder} must hold metadata.csv, RAVDESS (folders such as Actor_01) or EmoDB (files such as "
            "03a01Fa.wav)."
        )
    renamed = tuple(
        Utterance(u.path, u.speaker, mapping.get(u.emotion, u.emotion), u.gender) for u in voices.utterances
    )
    return Voices(voices.name, renamed, voices.folds, voices.licence)


def _read_table(folder: Path) -> Voices:
    rows = list(read_csv(folder / "metadata.csv", ("file_name", "speaker", "emotion")))
    if not rows:
        raise ValueError(f"{folder / 'metadata.csv'} has no rows.")
    utterances = tuple(
        Utterance(folder / row["file_name"], row["speaker"], row["emotion"], row.get("gender") or "") for row in rows
    )
    names = sorted({row.get("corpus") or folder.resolve().name for row in rows})
    licences = sorted({row["licence"] for row in rows if row.get("licence")})
    return Voices("+".join(names), utterances, _folds_of(utterances), "; ".join(licences) or None)


def _folds_of(utterances: Sequence[Utterance]) -> tuple[tuple[str, ...], ...]:
    """Speakers in the order of their names, in at most six folds of at least two."""
    speakers = sorted({utterance.speaker for utterance in utterances})
    count = min(MOST_FOLDS, len(speakers) // FEWEST_SPEAKERS)
    if count < 2:
        raise ValueError(
            f"Two folds of at least {FEWEST_SPEAKERS} speakers each are needed, got only the speakers {speakers}."
        )
    return tuple(tuple(map(str, fold)) for fold in np.array_split(speakers, count))


def _read_corpus(name: str, folder: Path) -> Voices:
    """Read a corpus with the package's reader, whose splits are the folds."""
    folds = load_conversations(name, data_dir=folder)
    licences = {"ravdess": "CC BY-NC-SA 4.0", "emodb": "free, with citation"}
    utterances = []
    for table in folds.values():
        labels = table.features["emotion"]
        utterances += [
            Utterance(Path(row["audio"]["path"]), row["speaker"], labels.int2str(row["emotion"]))
            for row in table
            if row["emotion"] >= 0
        ]
    speakers = tuple(tuple(sorted(set(table["speaker"]))) for table in folds.values())
    return Voices(name, tuple(utterances), speakers, licences[name])
