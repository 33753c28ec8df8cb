"""Code that is loaded from the Hub: it needs transformers, torch and numpy, and says what else would need what."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bare_environment import make_environment
from tiny_models import tiny_model, tiny_processor, tone
from transformers.dynamic_module_utils import get_imports

from titans_mal import ConversationMemoryCache
from titans_mal.data.synthetic.voices import to_wav


MODELING = Path(__file__).resolve().parents[2] / "modeling"
SCRIPT = """
import json, sys
from importlib.util import find_spec
assert not [name for name in ("titans_mal", "peft", "accelerate", "av", "soxr") if find_spec(name)]
import numpy as np, torch
from transformers import AutoModelForMultimodalLM
folder, wav = sys.argv[1:]
model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True).eval()
cache = model.memory_cache_class(model.config)
inputs = {name: torch.tensor(value) for name, value in json.load(open(folder + "/turn.json")).items()}
with torch.no_grad():
    answers = [model(**inputs, memory_cache=cache).emotion_logits.tolist() for _ in range(2)]
errors = []
from transformers import AutoProcessor
load_audio = sys.modules[type(model).__module__.rpartition(".")[0] + ".audio_loading"].load_audio
lora = sys.modules[type(model).__module__.rpartition(".")[0] + ".host_lora"]
for need in (lambda: load_audio(wav), lambda: load_audio((np.ones(800), 8000)), lambda: lora.read_lora_config(folder)):
    try:
        need()
    except ImportError as error:
        errors.append(str(error))
# Templates need Jinja2, which torch brings.
turn = model.prepare_turn(AutoProcessor.from_pretrained(folder), (0.1 * np.sin(np.arange(16000.0)), 16000))
assert turn["input_features"].isfinite().all()
print("answers:", json.dumps([answers, errors]), flush=True)
"""


@pytest.mark.parametrize("path", sorted(MODELING.glob("*.py")), ids=lambda path: path.name)
def test_transformers_demands_no_other_package(path):
    """It looks through the imports of all files that travel, and refuses to load them where one is missing."""
    assert {*get_imports(path)} - sys.stdlib_module_names <= {"torch", "transformers", "safetensors", "numpy"}


@pytest.mark.slow
def test_a_repository_runs_with_transformers_and_torch_alone(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    folder, wav = tmp_path / "model", tmp_path / "turn.wav"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    wav.write_bytes(to_wav(tone()))
    inputs = model.prepare_turn(processor, (tone(), 16_000))
    (folder / "turn.json").write_text(json.dumps({name: tensor.tolist() for name, tensor in inputs.items()}))
    python = make_environment(tmp_path / "environment", "torch", "transformers", "numpy")
    environment = {"HF_HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
    command = [str(python), "-I", "-c", SCRIPT, str(folder), str(wav)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    answers, errors = json.loads(run.stdout.partition("answers:")[2].splitlines()[0])
    cache = ConversationMemoryCache(model.config)
    for answer in answers:
        expected = model(**inputs, memory_cache=cache).emotion_logits.detach()
        assert answer[0] == pytest.approx(expected[0].tolist(), abs=1e-5)
    reported = ("pip install av", "pip install av soxr", "pip install peft")
    assert len(errors) == len(reported)
    for error, command in zip(errors, reported):
        assert command in error
    shutil.rmtree(tmp_path / "environment")
