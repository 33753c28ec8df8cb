"""Write the conversation that `demo.py` analyses, of two made-up speakers: one low and soft, the other high and loud.

Their usual voices are not everybody's, which is where a memory of them matters. The checkpoint never heard either.

python examples/quickstart/make_conversation.py
"""

import csv
from pathlib import Path

import numpy as np

from titans_mal.data.synthetic import Speaker, draw_conversation, to_wav


FOLDER = Path(__file__).parent / "conversation"
SEED = 2026
SPEAKERS = (
    Speaker(pitch=100.0, level=-43.0, tract=1.05, tilt=0.9, breath=0.03, rate=4.2, intonation=0.08),
    Speaker(pitch=205.0, level=-30.0, tract=0.85, tilt=0.75, breath=0.02, rate=5.2, intonation=0.1),
)


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "start", "end"])
        for index, turn in enumerate(draw_conversation(np.random.default_rng(SEED), turns=12, speakers=SPEAKERS)):
            name = f"turn_{index:02d}_{turn['speaker']}.wav"
            (folder / name).write_bytes(to_wav(turn["waveform"]))
            times = (f"{turn['start']:.3f}", f"{turn['end']:.3f}")
            table.writerow([name, "demo", index, turn["speaker"], turn["emotion"], *times])


if __name__ == "__main__":
    main()
