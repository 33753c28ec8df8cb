"""Compose dialogues of human voices: a folder that `load_conversations` reads.

    python examples/real_voices/compose.py --voices RAVDESS --script random --output dialogues
    python examples/real_voices/compose.py --voices RAVDESS --script sequences --sequences train_sent_emo.csv \\
        --sequences test_sent_emo.csv --output dialogues

Every turn is a real utterance. The folder is made of the corpus's audio and has the corpus's licence.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from dialogues import CALM_IS_NEUTRAL, SEQUENCE_LABELS, Composer, Dialogue, numbered, read_sequences
from scipy.io import wavfile
from voices import Utterance, Voices, file_name_of
from voices_reader import RAVDESS_LABELS, read_voices

from titans_mal.cli.messages import errors_in_one_line
from titans_mal.data.audio import load_audio
from titans_mal.data.virtual_speakers import RATE
from titans_mal.modeling.atomic_files import replacing


class Script(StrEnum):
    """Where the emotions of a dialogue come from."""

    RANDOM = "random"
    SEQUENCES = "sequences"


COLUMNS = ("file_name", "conversation_id", "turn_index", "speaker", "emotion", "gender", "split")


def voices_of_script(folder: Path, script: Script, labels: Sequence[str] | None = None) -> Voices:
    """The voices with the labels that a script needs: after real sequences, calm counts as neutral."""
    mapping = RAVDESS_LABELS | (CALM_IS_NEUTRAL if script is Script.SEQUENCES else {})
    voices = read_voices(folder, mapping=mapping)
    if labels is None and script is Script.SEQUENCES:
        labels = [label for label in SEQUENCE_LABELS.values() if label in voices.labels]
    return voices if labels is None else voices.keep(labels)


def check_fold(voices: Voices, fold: int) -> None:
    """Check the number of a fold.

    Raises:
        ValueError: for voices without folds.
        typer.BadParameter: for a number that none of the folds has.
    """
    voices.check_folds()
    if not 1 <= fold <= len(voices.folds):
        raise typer.BadParameter(f"--fold must be in 1..{len(voices.folds)} for {voices.name}, got {fold}.")


def scripts_of(
    sequences: Sequence[Path], labels: Sequence[str], *, required: Sequence[str] = ()
) -> dict[str, list[list[tuple[int, int]]]]:
    """Scripts of real dialogues by split, in the numbers of `labels`; those with other emotions are left out.

    Raises:
        typer.BadParameter: without dialogues of a required split.
    """
    pieces: dict[str, list] = {}
    for path in sequences:
        for split, scripts in read_sequences(path, SEQUENCE_LABELS).items():
            pieces.setdefault(split, []).extend(numbered(scripts, labels))
    if missing := {split for split in required if not pieces.get(split)}:
        raise typer.BadParameter(
            f"--sequences hold no dialogues of the splits {sorted(missing)}, but of {sorted(pieces)}: MELD has one "
            "file for each split, so repeat the option."
        )
    print("Sequences: " + ", ".join(f"{len(scripts)} of {split}" for split, scripts in pieces.items()))
    return pieces


def write_dialogues(
    voices: Voices, dialogues: Sequence[tuple[str, Dialogue]], labels: Sequence[str], output: Path
) -> None:
    """Write a folder of dialogues, given with their split: `metadata.csv` and a copy of each utterance in `audio/`.

    A file is a hard link where the file system allows it; a virtual speaker's file is a 16 kHz WAV. The table is
    complete or not there.
    """
    (output / "audio").mkdir(parents=True, exist_ok=True)
    with replacing(output / "metadata.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, (split, dialogue) in enumerate(dialogues):
            for turn, index in enumerate(dialogue.utterances):
                utterance = voices.utterances[index]
                name = f"audio/{index:05d}_{file_name_of(f'{utterance.speaker}_{utterance.path.stem}')}"
                name += utterance.path.suffix if utterance.change is None else ".wav"
                if not (output / name).exists():
                    _write_audio(utterance, output / name)
                row = (name, f"{split}_{number:05d}", turn, utterance.speaker)
                writer.writerow((*row, utterance.emotion, utterance.gender, split))


def _write_audio(utterance: Utterance, target: Path) -> None:
    with replacing(target) as draft:
        if utterance.change is not None:
            wavfile.write(draft, RATE, utterance.change(load_audio(str(utterance.path), RATE), RATE))
        else:
            try:
                os.link(utterance.path.resolve(), draft)
            except OSError:
                shutil.copyfile(utterance.path, draft)


def main(
    voices: Annotated[
        Path,
        typer.Option(
            help="Folder of RAVDESS or EmoDB, or with a metadata.csv of the columns file_name, speaker, emotion."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the dialogues, which must not contain a metadata.csv yet.")],
    script: Annotated[
        Script, typer.Option(help="Emotions of the turns: random, or sequences of real dialogues (--sequences).")
    ] = Script.RANDOM,
    sequences: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of MELD, or a table with the columns split, dialogue, turn, speaker, emotion. May be repeated."
        ),
    ] = None,
    fold: Annotated[
        int, typer.Option(help="Number of the fold whose speakers are in the test split, counted from 1.")
    ] = 1,
    train: Annotated[int, typer.Option(help="Number of training dialogues.")] = 600,
    test: Annotated[int, typer.Option(help="Number of test dialogues.")] = 200,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Compose dialogues of one fold and write them as a folder of conversations."""
    if (script is Script.SEQUENCES) != bool(sequences):
        raise typer.BadParameter("--script sequences needs --sequences, and --script random does not take it.")
    if (output / "metadata.csv").exists():
        raise typer.BadParameter(f"{output} already holds dialogues: choose another folder.")
    corpus = voices_of_script(voices, script)
    check_fold(corpus, fold)
    labels = corpus.labels
    speakers, emotions = corpus.arrays(labels)
    needed = [split for split, count in (("train", train), ("test", test)) if count]
    scripts = scripts_of(sequences, labels, required=needed) if sequences else {}
    if sequences:
        print(f"labels: {json.dumps(SEQUENCE_LABELS)}, and {json.dumps(CALM_IS_NEUTRAL)}")
    tested = [corpus.speakers.index(name) for name in corpus.folds[fold - 1]]
    allowed = {"train": [n for n in range(len(corpus.speakers)) if n not in tested], "test": tested}
    drawn: list[tuple[str, Dialogue]] = []
    for part, (split, count) in enumerate((("train", train), ("test", test))):
        composer = Composer(speakers, emotions, allowed[split], seed=(seed, fold, part))
        dialogues, skipped = composer.draw(scripts.get(split, []) if sequences else None, count)
        drawn += [(split, dialogue) for dialogue in dialogues]
        print(
            f"{split}: {count} dialogues, {sum(map(len, dialogues))} turns; {skipped} scripts skipped, as too "
            "few utterances were left"
        )
    write_dialogues(corpus, drawn, labels, output)
    print(f"{output}: {corpus.name}, licence {corpus.licence}; test speakers {', '.join(corpus.folds[fold - 1])}")


if __name__ == "__main__":
    typer.run(errors_in_one_line()(main))
