"""Write the conversation that `demo.py` analyses: two made-up speakers that the checkpoint was not trained on.

python examples/quickstart/make_conversation.py
"""

import csv
from pathlib import Path

import numpy as np

from titans_mal.data.synthetic import draw_conversation, to_wav


FOLDER = Path(__file__).parent / "conversation"
SEED = 2026


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "start", "end"])
        for index, turn in enumerate(draw_conversation(np.random.default_rng(SEED), turns=12)):
            name = f"turn_{index:02d}_{turn['speaker']}.wav"
            (FOLDER / name).write_bytes(to_wav(turn["waveform"]))
            times = (f"{turn['start']:.3f}", f"{turn['end']:.3f}")
            table.writerow([name, "demo", index, turn["speaker"], turn["emotion"], *times])


if __name__ == "__main__":
    main()
