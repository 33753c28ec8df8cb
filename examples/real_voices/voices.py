"""Single utterances of a corpus of human voices, with their speakers and folds."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from titans_mal.data.virtual_speakers import VirtualSpeaker, other_voices


MOST_FOLDS, FEWEST_IN_FOLD = 6, 2


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
        folds: the test speakers of fold 1, 2, ...; none if there are too few speakers.
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

    @cached_property
    def checksums(self) -> tuple[str, ...]:
        """A checksum of the contents of each utterance's file."""
        return tuple(checksum(utterance.path.read_bytes()) for utterance in self.utterances)

    @property
    def fingerprint(self) -> str:
        """A checksum of all utterances, their speakers and emotions."""
        rows = zip(self.checksums, self.utterances)
        return checksum("\n".join(f"{mark} {u.speaker} {u.emotion}" for mark, u in rows).encode())

    def __str__(self) -> str:
        counts = Counter(utterance.emotion for utterance in self.utterances)
        listed = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
        return f"{self.name}: {len(self.utterances)} utterances of {len(self.speakers)} speakers ({listed})"

    def check_folds(self) -> None:
        """Check that there are folds.

        Raises:
            ValueError: for too few speakers.
        """
        if not self.folds:
            raise ValueError(
                f"Two folds of at least {FEWEST_IN_FOLD} speakers each are needed, but {self.name} has only the "
                f"speakers {self.speakers}."
            )

    def keep(self, labels: Sequence[str]) -> Voices:
        """The utterances of some labels; the folds are those of the speakers who are left (`usable_folds`).

        Raises:
            ValueError: for a label that no utterance has.
        """
        unknown = sorted(set(labels) - set(self.labels))
        if unknown:
            raise ValueError(f"{self.name} has no utterances labelled {unknown}; it has {self.labels}.")
        kept = tuple(utterance for utterance in self.utterances if utterance.emotion in labels)
        speakers = {utterance.speaker for utterance in kept}
        folds = tuple(tuple(name for name in fold if name in speakers) for fold in self.folds)
        return Voices(self.name, kept, usable_folds(folds), self.licence)

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


def folds_of(speakers: set[str]) -> tuple[tuple[str, ...], ...]:
    """Speakers in the order of their names, in at most six folds of at least two; no folds if there are too few."""
    count = min(MOST_FOLDS, len(speakers) // FEWEST_IN_FOLD)
    if count < 2:
        return ()
    return tuple(tuple(map(str, fold)) for fold in np.array_split(sorted(speakers), count))


def usable_folds(folds: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The folds of a corpus, or `folds_of` its speakers if there is one fold or some have too few speakers."""
    if len(folds) > 1 and all(len(fold) >= FEWEST_IN_FOLD for fold in folds):
        return tuple(tuple(fold) for fold in folds)
    return folds_of({name for fold in folds for name in fold})


def file_name_of(name: str) -> str:
    """A name as a part of file names."""
    return re.sub(r"[^\w.+-]+", "_", name)


def checksum(content: bytes) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:16]
