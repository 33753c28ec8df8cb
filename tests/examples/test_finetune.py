"""`examples/finetune` as a user launches it: processes, interruptions, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import LABELS, save_base
from tiny_talks import write_talks

from titans_mal import AutoModelForAudioEmotion


FINETUNE = Path(__file__).parents[2] / "examples" / "finetune"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A base model and conversations of tones."""
    folder = tmp_path_factory.mktemp("data")
    save_base(folder / "base")
    write_talks(folder / "talks")
    return folder


def command(data, output, *options, config: str = "one_process") -> list[str]:
    fields = {
        "base-model": data / "base",
        "dataset": data / "talks",
        "label-set": ",".join(LABELS),
        "output-dir": output,
        "memory": '{"num_heads": 2, "head_dim": 8, "chunk_size": 4}',
        "window": 3,
        "per-device-train-batch-size": 1,
        "max-steps": 6,
        "logging-steps": 1,
        "save-steps": 2,
        "validation-share": 0,
        "lora-r": 2,
    }
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launch += [str(FINETUNE / "accelerate" / f"{config}.yaml"), "--main_process_port", "0"]
    given = [str(part) for name, value in fields.items() for part in (f"--{name}", value)]
    return [*launch, str(FINETUNE / "finetune.py"), *given, "--memory-layers", "0", "2", *options]


# With another number of threads, sums are taken in another order.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(data, output, *options, **how) -> str:
    done = subprocess.run(
        command(data, output, *options, **how), capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(output) -> list[float]:
    (last,) = output.glob("checkpoint-6")
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def trained(output) -> dict[str, torch.Tensor]:
    files = [output / "model" / "model.safetensors", output / "model" / "lora" / "adapter_model.safetensors"]
    return {f"{file.parent.name}/{key}": tensor for file in files for key, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    return output, run(data, output, "--gradient-accumulation-steps", "2")


@pytest.mark.slow
def test_the_script_prints_and_writes_its_results(uninterrupted, data):
    output, printed = uninterrupted
    assert "Parameters: memory " in printed
    assert ", lora " in printed
    assert "A step: 2 batches of 1 lanes of up to 3 turns; the longest turn has" in printed
    assert "Memory per process" in printed
    assert "| memory on, LoRA on |" in printed
    model = AutoModelForAudioEmotion.from_pretrained(output / "model")
    assert model.config.adapter_only
    assert model.config.has_lora
    assert not (output / "model" / "training_args.bin").exists()
    recipe = json.loads((output / "model" / "training_recipe.json").read_text())
    assert (recipe["steps"], recipe["processes"], recipe["lora_r"]) == (6, 1, 2)
    assert (recipe["base_model"], recipe["seed"]) == ("base", 0)
    assert not {"report_to", "save_steps", "bf16"} & set(recipe)
    report = json.loads((output / "report" / "report.json").read_text())
    assert set(report["conditions"]) > {"memory", "memory_off", "shuffled"}
    # A second training does not mix with the first.
    done = subprocess.run(command(data, output), capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode != 0
    assert "already holds a training" in done.stderr


@pytest.mark.slow
def test_two_processes_learn_what_one_does(uninterrupted, data, tmp_path):
    """The same lanes, accumulated by one process or shared by two over gloo: losses within 1e-4."""
    run(data, tmp_path / "out", "--processes", "2", config="two_processes_cpu")
    assert losses(tmp_path / "out") == pytest.approx(losses(uninterrupted[0]), abs=1e-4)
    one, two = trained(uninterrupted[0]), trained(tmp_path / "out")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_training_reaches_the_same_weights(uninterrupted, data, tmp_path, number):
    output = tmp_path / "out"
    options = ("--gradient-accumulation-steps", "2")
    process = subprocess.Popen(
        command(data, output, *options), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    # As soon as there is a checkpoint, and while it is perhaps still being written.
    while not list(output.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert not (output / "model").exists()
    run(data, output, *options, "--resume")
    one, other = trained(uninterrupted[0]), trained(output)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(output) == losses(uninterrupted[0])


@pytest.mark.slow
def test_training_with_fewer_processes_than_launched_is_rejected(data, tmp_path):
    done = subprocess.run(
        command(data, tmp_path / "out", "--processes", "2"),
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )
    assert done.returncode != 0
    assert "--processes requires 2 processes, but 1 are running" in done.stderr
    assert not (tmp_path / "out").exists()
