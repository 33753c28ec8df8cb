"""The shipped checkpoint, the demo, the training script and the README's code."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from transformers import AutoProcessor
from typer.testing import CliRunner

from titans_mal import AutoModelForAudioEmotion
from titans_mal.cli import app


ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
CHECKPOINT = QUICKSTART / "tiny-qwen2-audio-mal"
TTS_DIALOGUES = ROOT.parent / "shared" / "data" / "tts_dialogues"


@pytest.fixture(scope="module")
def training():
    """The training script's functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(QUICKSTART)
        return runpy.run_path(str(QUICKSTART / "train_tiny.py"))


@pytest.fixture(scope="module")
def shipped():
    return AutoModelForAudioEmotion.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)


def test_the_shipped_checkpoint_uses_its_memory(training, shipped):
    """Turns 3 to 8 of held-out conversations; the best possible from the utterance alone is about 56 %."""
    accuracy = training["evaluate"](*shipped, training["held_out"](100, seed=20_000))
    assert accuracy["memory off"] >= 0.50
    assert accuracy["memory on"] >= 0.76
    assert accuracy["memory on"] - accuracy["reset every turn"] >= 0.20


@pytest.mark.skipif(not TTS_DIALOGUES.is_dir(), reason=f"no audio in {TTS_DIALOGUES}")
def test_memory_helps_with_voices_of_another_generator(training, shipped):
    accuracy = training["evaluate"](*shipped, training["from_folder"](TTS_DIALOGUES))
    assert accuracy["memory on"] - accuracy["memory off"] >= 0.15


def test_the_shipped_folder_is_small_and_complete():
    tracked = list(CHECKPOINT.iterdir())
    assert "auto_map" not in json.loads((CHECKPOINT / "config.json").read_text())  # there is no code in the folder
    assert sum(path.stat().st_size for path in tracked) <= 6_000_000
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= {p.name for p in tracked}


def test_evaluation_streams_like_the_pipeline(training, shipped):
    """What the table says of turn-parallel evaluation holds for a user's turn by turn calls."""
    from titans_mal import AudioEmotionPipeline
    from titans_mal.data.synthetic.suites import EMOTIONS

    model, processor = shipped
    ((waveforms, _),) = training["held_out"](1, seed=20_001)
    turns = AudioEmotionPipeline(model=model, processor=processor)([(waveform, 16_000) for waveform in waveforms])
    inputs = training["prepare"](processor, waveforms)
    with torch.no_grad():
        logits = model(**inputs, conversation_ids=[0] * len(waveforms)).emotion_logits
    scores = torch.tensor([[turn["scores"][emotion] for emotion in EMOTIONS] for turn in turns])
    torch.testing.assert_close(logits.softmax(-1), scores, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_training_script_runs(tmp_path):
    few = {"utterances": 64, "host-steps": 2, "conversations": 16, "memory-steps": 2, "test-conversations": 2}
    arguments = [argument for name, value in few.items() for argument in (f"--{name}", str(value))]
    command = [sys.executable, QUICKSTART / "train_tiny.py", "--output", tmp_path / "tiny", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| synthetic \| [\d.]+% \| [\d.]+% \| [\d.]+% \|", done.stdout)
    model = AutoModelForAudioEmotion.from_pretrained(tmp_path / "tiny")
    assert model.num_parameters() < 1_000_000
    AutoProcessor.from_pretrained(tmp_path / "tiny")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the demo prints, and the folder that it was run in."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run([sys.executable, QUICKSTART / "demo.py"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_the_demo_shows_that_memory_helps(demo):
    printed, folder = demo
    right = {name: int(count) for name, count in re.findall(r"memory (on|off): (\d+) of 12", printed)}
    assert right["on"] > right["off"]
    assert "Timeline: timeline.png" in printed
    assert [path.name for path in folder.iterdir()] == ["timeline.png"]


@pytest.mark.slow
def test_the_picture_in_the_repository_is_the_demos(demo):
    drawn, kept = (imread(folder / "timeline.png") for folder in (demo[1], QUICKSTART))
    assert drawn.shape == kept.shape
    assert abs(drawn - kept).mean() < 0.01  # of 1; another matplotlib may draw letters otherwise


def test_the_demo_needs_a_folder(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "--output must be an existing folder" in " ".join(result.output.split())


def test_the_shipped_conversation_is_what_its_script_writes(tmp_path):
    script = runpy.run_path(str(QUICKSTART / "make_conversation.py"))
    script["main"](tmp_path)
    shipped = sorted(path.name for path in (QUICKSTART / "conversation").iterdir())
    assert shipped == sorted(path.name for path in tmp_path.iterdir())
    assert (tmp_path / "metadata.csv").read_text() == (QUICKSTART / "conversation" / "metadata.csv").read_text()
