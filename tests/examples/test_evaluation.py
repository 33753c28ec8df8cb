"""The script that evaluates all folds, on a tree that looks like IEMOCAP."""

import subprocess
import sys
from pathlib import Path

import corpus_trees
import pytest
from tiny_models import tiny_model, tiny_processor


SCRIPT = Path(__file__).parents[2] / "examples" / "evaluation" / "evaluate_folds.py"


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
def test_folds_are_evaluated_and_pooled(tmp_path):
    for fold in range(1, 6):
        folder = tmp_path / f"model-{fold}"
        tiny_model(seed=fold).save_pretrained(folder)
        tiny_processor().save_pretrained(folder)
    corpus_trees.iemocap(tmp_path / "corpus")
    options = ["--data-dir", tmp_path / "corpus", "--output", tmp_path / "reports", "--resamples", 100]
    done = run(tmp_path / "model-{fold}", "iemocap", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    table = (tmp_path / "reports" / "folds.md").read_text()
    assert "Mean of 5 reports" in table
    assert "## Folds pooled" in table
    assert "must contain {fold}" in run(tmp_path / "model-1", "iemocap", *options).stderr
    assert "meld has official splits" in run(tmp_path / "model-{fold}", "meld", *options).stderr
