import csv

import pytest
from tiny_models import LABELS, tone

from titans_mal import load_conversations
from titans_mal.data.voices import to_wav


# Turns of the conversations that are trained on: some are longer than a window, some shorter.
LENGTHS = {"a": 3, "b": 7, "c": 2, "d": 5, "e": 4}


@pytest.fixture(scope="session")
def talks_folder(tmp_path_factory):
    """Conversations of tones, train and test."""
    folder = tmp_path_factory.mktemp("talks")
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "split"])
        for split, lengths in (("train", LENGTHS), ("test", {"x": 3, "y": 4})):
            for talk, length in lengths.items():
                for turn in range(length):
                    name = f"{talk}{turn}.wav"
                    frequency = 100 + 40 * turn + 11 * ord(talk) % 50
                    (folder / name).write_bytes(to_wav(tone(0.4 + 0.1 * (turn % 3), frequency=frequency)))
                    table.writerow([name, talk, turn, "XY"[turn % 2], LABELS[(turn + ord(talk)) % 4], split])
    return folder


@pytest.fixture(scope="session")
def talks(talks_folder):
    return load_conversations(talks_folder, label_set=LABELS)
