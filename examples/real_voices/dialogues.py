"""Dialogues composed of single utterances: who speaks with which emotion, by chance or after real dialogues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from titans_mal.data.corpora.corpus import read_csv


TURNS = 10
MOST_TRIES = 10_000
# Pieces that a real dialogue is cut into, in turns, and its speakers.
SHORTEST, LONGEST = 10, 16
FEWEST_SPEAKERS, MOST_SPEAKERS = 2, 4
# Columns of MELD's CSV, and of a plain table.
_MELD = {"dialogue": "Dialogue_ID", "turn": "Utterance_ID", "speaker": "Speaker", "emotion": "Emotion"}
_PLAIN = {name: name for name in _MELD}


@dataclass(frozen=True)
class Dialogue:
    """A composed dialogue.

    Attributes:
        utterances: (turns,) int, numbers of the utterances, each at most once.
        speakers: (turns,) int, who speaks, numbered within the dialogue.
    """

    utterances: np.ndarray
    speakers: np.ndarray

    def __len__(self) -> int:
        return len(self.utterances)


class Composer:
    """Draws dialogues of some speakers of a corpus.

    Args:
        speakers, emotions: (utterances,) int, of the corpus.
        allowed: the speakers that may occur.
        seed: of all that is drawn.
    """

    def __init__(self, speakers: np.ndarray, emotions: np.ndarray, allowed: Sequence[int], *, seed: Sequence[int]):
        self._rng = np.random.default_rng(seed)
        self._allowed = np.array(allowed)
        self._emotions = np.unique(emotions[np.isin(speakers, self._allowed)])
        self._of = {
            (speaker, emotion): np.flatnonzero((speakers == speaker) & (emotions == emotion))
            for speaker in allowed
            for emotion in self._emotions
        }

    def random(self, *, turns: int = TURNS, speakers: int = FEWEST_SPEAKERS) -> Dialogue:
        """Speaker and emotion of each turn are drawn independently, with equal probabilities.

        A dialogue that needs an utterance twice is drawn again: speakers and emotions with few utterances are rarer.

        Raises:
            ValueError: if the speakers have too few utterances.
        """
        return self._random(turns, speakers)[0]

    def _random(self, turns: int, speakers: int) -> tuple[Dialogue, int]:
        """A dialogue with random emotions, and how many were drawn in vain before."""
        for skipped in range(MOST_TRIES):
            script = zip(self._rng.integers(speakers, size=turns), self._rng.choice(self._emotions, size=turns))
            dialogue = self.perform(list(script))
            if dialogue is not None:
                return dialogue, skipped
        raise ValueError(
            f"The {len(self._allowed)} speakers have too few utterances for dialogues of {turns} turns by {speakers} "
            "speakers with random emotions."
        )

    def perform(self, script: Sequence[tuple[int, int]]) -> Dialogue | None:
        """A dialogue of pairs (speaker within it, emotion); None where an utterance would be needed twice."""
        people = self._rng.choice(self._allowed, max(speaker for speaker, _ in script) + 1, replace=False)
        chosen: list[int] = []
        for speaker, emotion in script:
            left = np.setdiff1d(self._of.get((people[speaker], emotion), []), chosen)
            if not len(left):
                return None
            chosen.append(int(self._rng.choice(left)))
        return Dialogue(np.array(chosen), np.array([speaker for speaker, _ in script]))

    def draw(self, scripts: Sequence[Sequence[tuple[int, int]]] | None, count: int) -> tuple[list[Dialogue], int]:
        """Dialogues after scripts that are drawn again and again (None: random ones), and how many draws were skipped.

        Raises:
            ValueError: where hardly any script can be performed by these speakers.
        """
        if scripts is None:
            drawn = [self._random(TURNS, FEWEST_SPEAKERS) for _ in range(count)]
            return [dialogue for dialogue, _ in drawn], sum(skipped for _, skipped in drawn)
        scripts = [script for script in scripts if max(speaker for speaker, _ in script) < len(self._allowed)]
        dialogues: list[Dialogue] = []
        skipped = 0
        while len(dialogues) < count:
            dialogue = self.perform(scripts[self._rng.integers(len(scripts))]) if scripts else None
            if dialogue is not None:
                dialogues.append(dialogue)
            else:
                skipped += 1
            if skipped > 100 * count:
                raise ValueError(
                    f"The speakers have too few utterances: only {len(dialogues)} of {skipped + len(dialogues)} "
                    "scripts could be performed."
                )
        return dialogues, skipped


def read_sequences(path: str | Path, mapping: Mapping[str, str]) -> dict[str, list[list[tuple[int, str]]]]:
    """Scripts of real dialogues: for each split, pieces of 10 to 16 turns by 2 to 4 speakers as (speaker, emotion).

    Args:
        path: MELD's CSV as downloaded (its split is read off the name: train, dev or test), or a table with the
            columns `split, dialogue, turn, speaker, emotion`.
        mapping: from the table's emotions to those of the voices.

    Raises:
        ValueError: for a table of other columns, an emotion that the mapping does not have, or turns that are not
            numbered, each once in a dialogue.
    """
    path = Path(path)
    rows = list(read_csv(path, ()))
    present = set(rows[0]) if rows else set()
    names = _MELD if set(_MELD.values()) <= present else _PLAIN
    missing = sorted(set(names.values()) - present)
    if missing:
        raise ValueError(f"{path} must be MELD's table or have the columns {sorted(_PLAIN)}; it lacks {missing}.")
    split_of_file = next((split for split in ("train", "dev", "test") if split in path.name.lower()), "train")
    dialogues: dict[tuple[str, str], dict[int, tuple[str, str]]] = {}
    for row in rows:
        emotion = row[names["emotion"]].lower()
        if emotion not in mapping:
            raise ValueError(f"{path} has the emotion {emotion!r}, which is not mapped to any of {dict(mapping)}.")
        if not (row[names["turn"]] or "").strip().isdecimal():
            raise ValueError(f"{path}: the number of a turn must be an integer, got {row[names['turn']]!r}.")
        key = (row.get("split") or split_of_file).strip().lower(), row[names["dialogue"]]
        turn = int(row[names["turn"]])
        if turn in dialogues.setdefault(key, {}):
            raise ValueError(
                f"{path}: dialogue {key[1]} of {key[0]} has two turns {turn}. A file that joins several needs the "
                "column split."
            )
        dialogues[key][turn] = row[names["speaker"]], mapping[emotion]
    pieces: dict[str, list[list[tuple[int, str]]]] = {}
    for (split, _), turns in dialogues.items():
        pieces.setdefault(split, []).extend(_pieces([turns[number] for number in sorted(turns)]))
    return pieces


def _pieces(turns: list[tuple[str, str]]) -> Iterator[list[tuple[int, str]]]:
    """A dialogue in pieces of about one length, those of too few turns or too few or many speakers left out."""
    size = -(-len(turns) // -(-len(turns) // LONGEST))
    for start in range(0, len(turns), size):
        piece = turns[start : start + size]
        people = list(dict.fromkeys(speaker for speaker, _ in piece))
        if len(piece) >= SHORTEST and FEWEST_SPEAKERS <= len(people) <= MOST_SPEAKERS:
            yield [(people.index(speaker), emotion) for speaker, emotion in piece]


# MELD's emotions, as RAVDESS calls them. RAVDESS's few neutral utterances are joined by its calm ones.
SEQUENCE_LABELS = {
    "neutral": "neutral",
    "joy": "happy",
    "anger": "angry",
    "sadness": "sad",
    "fear": "fearful",
    "disgust": "disgusted",
    "surprise": "surprised",
}
CALM_IS_NEUTRAL = {"calm": "neutral"}


def numbered(scripts: Sequence[Sequence[tuple[int, str]]], labels: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Scripts with the numbers of their emotions; those with an emotion that is no label are left out."""
    numbers = {label: number for number, label in enumerate(labels)}
    return [
        [(speaker, numbers[emotion]) for speaker, emotion in script]
        for script in scripts
        if all(emotion in numbers for _, emotion in script)
    ]
