"""MELD (Poria et al. 2019): dialogues of the series Friends, cut from the video.

    train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv
    train_splits/, dev_splits_complete/, output_repeated_splits_test/      dia{D}_utt{U}.mp4

Its test speakers and nearly all of its test episodes occur in training: it is not speaker-independent.
"""

from __future__ import annotations

from pathlib import Path

from ..problems import Problem
from ..table import Turn, clock_seconds
from .corpus import Corpus, read_clips, same


_SPLITS = {
    "train": ("train_sent_emo.csv", ("train_splits", "train")),
    "dev": ("dev_sent_emo.csv", ("dev_splits_complete", "dev_splits", "dev")),
    "test": ("test_sent_emo.csv", ("output_repeated_splits_test", "test_splits", "test")),
}
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")


def read(root: Path) -> tuple[list[Turn], list[Problem]]:
    """All turns of the three splits, in the order of their ids, since start times decrease in some dialogues."""
    return read_clips(root, _SPLITS, _COLUMNS, _turn)


def _turn(row: dict[str, str], clips: Path, split: str) -> Turn:
    dialogue, utterance = int(row["Dialogue_ID"]), int(row["Utterance_ID"])
    return Turn(
        f"{split}_dia{dialogue}",  # ids restart in each split
        row["Speaker"],
        str(clips / f"dia{dialogue}_utt{utterance}.mp4"),
        words=(row["Emotion"], f"sentiment:{row['Sentiment']}"),
        start=clock_seconds(row["StartTime"]),
        end=clock_seconds(row["EndTime"]),
        transcript=row["Utterance"],
        group=split,
        order=(utterance,),
    )


MELD = Corpus(
    name="meld",
    title="MELD",
    read=read,
    label_sets={
        "7-class": same("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear"),
        "3-class": {f"sentiment:{sentiment}": sentiment for sentiment in ("neutral", "positive", "negative")},
    },
)
