"""A real host on human voices, from its parts to a repository that transformers alone loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from released import data_folder


SCRIPT = Path(__file__).parents[2] / "examples" / "real_voices" / "end_to_end.py"


@pytest.mark.real
@pytest.mark.parametrize("architecture", ["Qwen2Audio", "AudioFlamingo3"])
def test_a_real_host_is_trained_published_and_loaded_by_its_own_code(architecture, tmp_path):
    """TITANS_MAL_DATA must hold `whisper-tiny.en`, `smollm2` and `real_voices`."""
    options = {
        "--whisper": data_folder("whisper-tiny.en"),
        "--language-model": data_folder("smollm2"),
        "--voices": data_folder("real_voices", "ravdess"),
        "--output": tmp_path,
        "--architecture": architecture,
    }
    command = [sys.executable, SCRIPT, "--steps", "2", "--turns", "3", *(x for pair in options.items() for x in pair)]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "turns in memory: [1]" in run.stdout
    assert "published as a dry run" in run.stdout
    assert "largest difference of probabilities, loaded by its own code" in run.stdout
