"""Write the conversation that `demo.py` analyses, of two synthetic speakers, one low and soft, one high and loud.

For such unusual voices a memory matters most. The checkpoint was trained on neither.

python examples/quickstart/make_conversation.py
"""

import csv
from pathlib import Path

import numpy as np

from titans_mal.data.synthetic import PAUSE, speak
from titans_mal.data.synthetic.suites import EMOTIONS, Speaker, baseline
from titans_mal.data.synthetic.voices import LEVEL_MEAN, PITCH_MEDIAN, SAMPLING_RATE, Voice, to_wav


FOLDER = Path(__file__).parent / "conversation"
SEED = 2026
SPEAKERS = (
    Speaker(
        pitch=np.log(100 / PITCH_MEDIAN),
        level=-43 - LEVEL_MEAN,
        voice=Voice(tract=1.05, tilt=0.9, breath=0.03, rate=4.2, intonation=0.08),
    ),
    Speaker(
        pitch=np.log(205 / PITCH_MEDIAN),
        level=-30 - LEVEL_MEAN,
        voice=Voice(tract=0.85, tilt=0.75, breath=0.02, rate=5.2, intonation=0.1),
    ),
)


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "conversation_id", "turn_index", "speaker", "emotion", "start", "end"])
        rng, clock = np.random.default_rng(SEED), 0.0
        script = baseline(turns=12).draw(rng, speakers=SPEAKERS)
        for index, (turn, waveform) in enumerate(zip(script.turns, speak(script, rng))):
            speaker, end = "AB"[turn.speaker], clock + len(waveform) / SAMPLING_RATE
            name = f"turn_{index:02d}_{speaker}.wav"
            (folder / name).write_bytes(to_wav(waveform))
            table.writerow([name, "demo", index, speaker, EMOTIONS[turn.emotion], f"{clock:.3f}", f"{end:.3f}"])
            clock = end + PAUSE


if __name__ == "__main__":
    main()
